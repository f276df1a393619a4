"""Standings: which codec has the best quality at an equal rate, by how much, and whether the items can tell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...metric import ItemValues, Summary
from ..records import Place, Record, Standing
from ..results import Results

CENTERS = {"image": 0.1, "audio": 1.5}
"""Center of one rate band of a modality. Bands are a factor of 2 wide, and cover all rates."""
TOLERANCE = 1.05
"""Factor by which a curve extends beyond its ends, so that a codec with a single rate has a value near it."""
DEFINITION = {
    "rate": "coded; a codec's value between two settings is interpolated, linear in log rate",
    "interval": "95 %, of the mean difference over items (paired, Student's t); a difference inside it is a tie",
    "band": "a factor of 2 in rate; the codecs are compared at the rate in it that most of them reach",
}


@dataclass(frozen=True)
class _Point:
    """A codec at a rate: one record, or a mix of the two whose rates are next to it."""

    parts: tuple[tuple[Record, float], ...]
    metric: str

    def value(self) -> float:
        return math.fsum(weight * (record.value(self.metric) or 0.0) for record, weight in self.parts)

    def items(self) -> dict[str, float]:
        """Return key → value of the items that have a value in all parts."""
        parts = [(item_values(record, self.metric), weight) for record, weight in self.parts]
        keys = [key for key in parts[0][0] if all(key in values for values, _ in parts)]
        return {key: sum(weight * values[key] for values, weight in parts) for key in keys}


def standings(results: Results) -> list[Standing]:
    """Return a standing for each metric with values per item and each band of rates with a measured one."""
    return [
        standing(results, modality, metric, rate, center)
        for modality in results.modalities()
        if modality in CENTERS
        for metric in results.measured(modality)
        if any(metric in row for r in results.of(modality) for row in r.items)
        for center, rate in _bands(_curves(results, modality, metric).values(), CENTERS[modality])
    ]


def standing(results: Results, modality: str, metric: str, rate: float, center: float | None = None) -> Standing:
    """Return the codecs with a value at a coded rate, the best one first."""
    higher = results.metric(modality, metric).better == "higher"
    curves = _curves(results, modality, metric)
    points = {codec: point for codec, curve in curves.items() if (point := _at(curve, metric, rate))}
    order = sorted(points, key=lambda codec: points[codec].value(), reverse=higher)
    places = []
    for codec in order:
        best, point = points[order[0]], points[codec]
        gap = abs(best.value() - point.value())
        places.append(
            Place(codec=codec, value=point.value(), gap=gap, ci95=differences(best.items(), point.items()).ci95)
        )
    unit = results.of(modality)[0].rate_unit
    return Standing(modality=modality, metric=metric, rate=rate, rate_unit=unit, center=center, places=places)


def item_values(record: Record, metric: str) -> dict[str, float]:
    """Return key → value of the items with a finite value of a metric."""
    return {row["key"]: v for row in record.items if isinstance(v := row.get(metric), int | float)}


def differences(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Summary:
    """Return the statistics of the differences ours − theirs over the items that both have."""
    return ItemValues(ours[key] - theirs[key] for key in ours if key in theirs).summary()


def _curves(results: Results, modality: str, metric: str) -> dict[str, list[Record]]:
    """Return codec → records with a finite value and a rate, lowest rate first."""
    curves: dict[str, list[Record]] = {}
    for r in sorted(results.of(modality), key=lambda r: r.rate() or 0.0):
        value = r.value(metric)
        if r.rate() and value is not None and math.isfinite(value):
            curves.setdefault(r.codec, []).append(r)
    return curves


def _at(curve: list[Record], metric: str, rate: float) -> _Point | None:
    """Return a curve at a rate; None outside the curve (see TOLERANCE)."""
    low, high = curve[0].rate() or 0.0, curve[-1].rate() or 0.0
    if not low / TOLERANCE <= rate <= high * TOLERANCE:
        return None
    for a, b in itertools.pairwise(curve):
        r0, r1 = a.rate() or 0.0, b.rate() or 0.0
        if r0 <= rate <= r1 and r0 < r1:
            share = math.log(rate / r0) / math.log(r1 / r0)
            return _Point(((a, 1 - share), (b, share)), metric)
    return _Point(((curve[0] if rate <= low else curve[-1], 1.0),), metric)


def _bands(curves: Iterable[list[Record]], center: float) -> list[tuple[float, float]]:
    """Return center and rate of every band with a measured rate: the rate that most curves reach."""
    curves = list(curves)
    measured: dict[int, list[float]] = {}
    for rate in (r.rate() or 0.0 for curve in curves for r in curve):
        measured.setdefault(round(math.log2(rate / center)), []).append(rate)
    found = []
    for number, rates in sorted(measured.items()):
        middle = center * 2.0**number

        def reach(rate: float, middle: float = middle) -> tuple[int, float]:
            return sum(_at(curve, "", rate) is not None for curve in curves), -abs(math.log(rate / middle))

        found.append((middle, max((middle, *rates), key=reach)))
    return found
