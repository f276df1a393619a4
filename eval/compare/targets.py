"""Comparison of targets with fixed settings at equal mean tokens.

It measures the gain from a number of tokens that varies by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tokenloom.codecs.targets import Curve
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.models.diffusion.codec import DiffusionCodec

from ..metric import ItemValues
from ..trial import attempt, to_codec
from .entries import CodecEntry
from .records import PsnrSummary, TargetRecord

FIXED = "fixed"
TARGETS = ("psnr", "slope")
LABELS = {FIXED: "fixed tokens", "psnr": "equal PSNR", "slope": "equal slope"}
DEFINITIONS = {
    "fixed": "every image has the same setting; tokens are the mean of the set",
    "equal PSNR": (
        "Target(psnr) at the largest value with at most the mean tokens of the fixed setting; an image that cannot "
        "reach it is coded at its highest PSNR, and counted"
    ),
    "equal slope": "Target(slope) at the smallest value, in dB per token, with at most these mean tokens",
    "10th percentile": "PSNR that nine of ten images exceed, interpolated linearly",
}
STEPS = 40
"""Bisections of a target's range."""


def parse_targets(targets: Sequence[str] | None) -> tuple[str, ...] | None:
    """Check the argument `targets` of `compare`. None leaves the choice to `targets_of`."""
    if targets is None:
        return None
    names = list(targets) if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
    for name in names:
        if name not in TARGETS:
            raise ValueError(f"targets must be of {', '.join(TARGETS)}, got {name!r}")
    return tuple(dict.fromkeys(names))


def targets_of(entry: CodecEntry, targets: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the targets to measure for a codec.

    None means all targets for codecs of variable length. A codec with a diffusion decoder has no targets, because they
    depend on the codec alone.
    """
    codec = entry.codec
    if isinstance(codec, DiffusionCodec) or codec.spec.modality is not Modality.IMAGE or len(codec.settings) < 2:
        return ()
    if targets is None:
        return TARGETS if codec.spec.ordered and not codec.spec.stride else ()
    return targets


class TargetSearch:
    """Collects the curves of one codec over a set, then finds targets at the mean tokens of fixed settings."""

    def __init__(self, entry: CodecEntry, targets: tuple[str, ...]) -> None:
        self.entry, self.targets = entry, targets
        self.curves: list[Curve] = []
        self.failures = ItemValues()

    def attempt(self, item: Item) -> Curve | str:
        """Return the item's curve, or the reason of a failure."""
        return attempt(lambda: self._curve(item))

    def _curve(self, item: Item) -> Curve:
        codec = self.entry.codec_for(item)
        return replace(codec.curve(to_codec(item, codec)), codes=None)

    def add(self, outcome: Curve | str) -> None:
        """Add a result of `attempt`."""
        if isinstance(outcome, str):
            self.failures.fail(outcome)
        else:
            self.curves.append(outcome)

    def at(self, setting: Any) -> dict[str, TargetRecord]:
        """Return the results of a fixed setting, and of each target with at most its mean tokens."""
        if not self.curves:
            return {}
        choice = self.entry.codec.settings.values.index(setting)
        fixed = self._record(setting, [choice] * len(self.curves))
        search = {"psnr": self._equal_psnr, "slope": self._equal_slope}
        return {FIXED: fixed, **{name: search[name](fixed.tokens) for name in self.targets}}

    def _equal_psnr(self, most: float) -> TargetRecord:
        finite = [value for curve in self.curves for value in curve.psnr if math.isfinite(value)]

        def choices(value: float) -> list[int]:
            pairs = [(curve, curve.cheapest(value)) for curve in self.curves]
            return [curve.cheapest(max(curve.psnr)) if c is None else c for curve, c in pairs]

        value = self._largest(most, choices, min(finite, default=0.0), max(finite, default=1.0))
        missed = sum(curve.cheapest(value) is None for curve in self.curves)
        return replace(self._record(value, choices(value)), out_of_reach=missed)

    def _equal_slope(self, most: float) -> TargetRecord:
        """Bisect the logarithm of the slope, from 1000 dB per token down to 1e-9."""

        def choices(value: float) -> list[int]:
            return [curve.steepest(10**-value) for curve in self.curves]

        value = self._largest(most, choices, -3.0, 9.0)
        return self._record(10**-value, choices(value))

    def _largest(self, most: float, choices: Callable[[float], list[int]], low: float, high: float) -> float:
        """Return the largest value of a range whose mean tokens are at most `most`; `low` if none is."""
        if self._tokens(choices(high)) <= most:
            return high
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._tokens(choices(middle)) <= most else (low, middle)
        return low

    def _tokens(self, choices: list[int]) -> float:
        return math.fsum(c.tokens[p] for c, p in zip(self.curves, choices, strict=True)) / len(choices)

    def _record(self, value: Any, choices: list[int]) -> TargetRecord:
        values = ItemValues(curve.psnr[choice] for curve, choice in zip(self.curves, choices, strict=True))
        tenth = float(np.quantile(np.array(values.values, dtype=float), 0.1))
        psnr = PsnrSummary(**vars(values.summary()), p10=tenth if math.isfinite(tenth) else None)
        return TargetRecord(value=value, tokens=self._tokens(choices), psnr=psnr)
