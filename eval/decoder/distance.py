"""Kernel distance (KID) between sets of signals in a feature space, with a bootstrap interval."""

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
    """Return the KID between the features (d,) of two sets (see metrics/distribution.py), and its bootstrap draws.

    Items without features (None) are left out, of both sets if they are paired (fake[i] was decoded from the codes of
    real[i]). Raises Unmeasurable if fewer than 2 are left.
    """
    if paired:
        both = [(a, b) for a, b in zip(real, fake, strict=True) if a is not None and b is not None]
        real, fake = [a for a, _ in both], [b for _, b in both]
    x, y = [a for a in real if a is not None], [b for b in fake if b is not None]
    if min(len(x), len(y)) < 2:
        raise Unmeasurable(f"{min(len(x), len(y))} items have these features; a distance between sets needs 2")
    reals, fakes = torch.stack(x), torch.stack(y)
    draws = distribution.bootstrap(reals, fakes, paired=paired)
    value = distribution.kid(reals, fakes, paired=paired)
    return DistanceRecord(value, *distribution.interval(draws), len(y)), draws


def compare_draws(record: VariantRecord, draws: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Set `below` of each distance of a diffusion record: whether it is smaller than a baseline's beyond chance.

    `draws` maps variants to feature spaces to draws of the bootstrap; all variants draw the same items.
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
