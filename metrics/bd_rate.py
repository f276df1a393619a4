"""BD-rate: the mean difference in rate at equal quality (Bjøntegaard, VCEG-M33)."""

from __future__ import annotations

import math
import warnings

from tokenloom import lazy

from . import errors

bjontegaard = lazy.load("bjontegaard", "eval")

LEAST_OVERLAP = 0.25
"""Smallest overlap with a BD-rate. A mean over less says little about the curves."""
DEFINITION = {
    "method": "piecewise cubic (pchip) through log10 rate over quality",
    "curve": "the means of a set per setting; a point of no higher quality than a cheaper one is left out",
    "rate": "coded",
    "interval": "the qualities that both curves reach; overlap = its share of all that either reaches; absent below "
    f"{LEAST_OVERLAP:.0%}",
}

Point = tuple[float, float]
"""Rate and quality."""


def bd_rate(anchor: list[Point], test: list[Point]) -> tuple[float, float]:
    """Return the mean rate difference of `test` against `anchor` at equal quality, and the overlap of the two curves.

    Args:
        anchor: Points in any order. All rates have the same unit. Higher quality is better.
        test: Points of the other curve.

    Returns:
        The difference in percent, negative if `test` needs fewer bits. The overlap in [LEAST_OVERLAP, 1]: the quality
        range that both curves cover, as a share of the range that they cover together.

    Raises:
        ValueError: If the curves have no BD-rate. The message states the reason.
    """
    if reason := errors.missing_package("bjontegaard", "eval"):
        raise ValueError(reason)
    anchor, test = frontier(anchor), frontier(test)
    for name, points in (("the anchor", anchor), ("the codec", test)):
        if len(points) < 2:
            raise ValueError(f"{name} has {len(points)} usable point{'s' * (len(points) != 1)}, a curve needs 2")
    low, high = max(anchor[0][1], test[0][1]), min(anchor[-1][1], test[-1][1])
    if low >= high:
        raise ValueError("the two curves have no quality in common")
    overlap = (high - low) / (max(anchor[-1][1], test[-1][1]) - min(anchor[0][1], test[0][1]))
    if overlap < LEAST_OVERLAP:
        raise ValueError(f"the two curves share {overlap:.1%} of their quality range, less than {LEAST_OVERLAP:.0%}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the library warns of fits that it does not trust
            percent = bjontegaard.bd_rate(
                *zip(*anchor, strict=True), *zip(*test, strict=True), "pchip",
                require_matching_points=False, min_overlap=0,
            )  # fmt: skip
    except Warning as warning:
        raise ValueError(str(warning)) from warning
    if not math.isfinite(percent):
        raise ValueError("the fit gave no number")
    return float(percent), overlap


def frontier(points: list[Point]) -> list[Point]:
    """Return the points sorted by rate, keeping only those of higher quality than all cheaper points."""
    best, kept = -math.inf, []
    for rate, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if math.isfinite(quality) and quality > best:
            best = quality
            kept.append((rate, quality))
    return kept
