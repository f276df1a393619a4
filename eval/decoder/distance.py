"""Kernel distance (KID) between sets of signals in a feature space, with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tokenloom.metrics import distribution
from tokenloom.metrics.errors import Unmeasurable

from .records import DistanceRecord, VariantRecord
from .variants import BASELINES


def distance(
    real: Sequence[Tensor | None], fake: Sequence[Tensor | None], *, paired: bool = True
) -> tuple[DistanceRecord, Tensor]:
    """Return the KID (see metrics/distribution.py) between two sets, and its bootstrap draws.

    Args:
        real: Features (d,) of each real item; None: left out.
        fake: Features (d,) of each decoded item; None: left out.
        paired: Whether fake[i] was decoded from the codes of real[i]. If so, both are left out together.

    Raises:
        Unmeasurable: If fewer than 2 items are left.
    """
    if paired:
        both = [(a, b) for a, b in zip(real, fake, strict=True) if a is not None and b is not None]
        real, fake = [a for a, _ in both], [b for _, b in both]
    x, y = [a for a in real if a is not None], [b for b in fake if b is not None]
    if min(len(x), len(y)) < 2:
        raise Unmeasurable(f"a distance between sets needs 2 items with features, got {min(len(x), len(y))}")
    reals, fakes = torch.stack(x), torch.stack(y)
    draws = distribution.bootstrap(reals, fakes, paired=paired)
    value = distribution.kid(reals, fakes, paired=paired)
    return DistanceRecord(value, *distribution.interval(draws), len(y)), draws


def compare_draws(record: VariantRecord, draws: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Set `below` of each distance of a diffusion record.

    `draws` maps variant → feature space → bootstrap draws. All variants draw the same items.
    """
    if record.steps is None:
        return
    for space, kid in record.kid.items():
        kid.below = {}
        for name in BASELINES:
            if space in draws.get(name, {}):
                difference = draws[record.variant][space] - draws[name][space]
                try:
                    kid.below[name] = distribution.interval(difference)[1] < 0
                except Unmeasurable:  # too few items to draw from
                    continue
