"""BD-rate: the mean difference in rate at equal quality (Bjøntegaard, VCEG-M33), by the bjontegaard package."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec
from typing import Any

from .results import Results, shown

PROTOCOL = {
    "method": "piecewise cubic (pchip) through log10 rate over quality",
    "curve": "the means of a set per setting; a point of no higher quality than a cheaper one is left out",
    "rate": "coded",
    "interval": "the qualities that both curves reach; overlap = its share of all that either reaches",
}

Point = tuple[float, float]


def bd_rate(anchor: list[Point], test: list[Point]) -> tuple[float, float]:
    """(percent, overlap): mean rate difference of `test` against `anchor` at equal quality.

    anchor, test  (rate, quality) points in any order; rate in any one unit, more quality is better
    percent       negative where `test` needs fewer bits
    overlap       share in (0, 1] of the whole quality interval that both curves cover
    Raises ValueError, with the reason, where there is no such figure.
    """
    if find_spec("bjontegaard") is None:
        raise ValueError("the package bjontegaard is not installed (pip install 'tokenloom[compare]')")
    import bjontegaard

    anchor, test = frontier(anchor), frontier(test)
    for name, points in (("the anchor", anchor), ("the codec", test)):
        if len(points) < 2:
            raise ValueError(f"{name} has {len(points)} usable point{'s' * (len(points) != 1)}, a curve needs 2")
    low, high = max(anchor[0][1], test[0][1]), min(anchor[-1][1], test[-1][1])
    if low >= high:
        raise ValueError("the two curves have no quality in common")
    overlap = (high - low) / (max(anchor[-1][1], test[-1][1]) - min(anchor[0][1], test[0][1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fit that the library doubts is no figure
        percent = bjontegaard.bd_rate(
            *zip(*anchor, strict=True), *zip(*test, strict=True), "pchip", require_matching_points=False, min_overlap=0
        )
    if not math.isfinite(percent):
        raise ValueError("the fit gave no number")
    return float(percent), overlap


def frontier(points: list[Point]) -> list[Point]:
    """The points in order of rate, each of higher quality than all that are cheaper."""
    best, kept = -math.inf, []
    for rate, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if math.isfinite(quality) and quality > best:
            best = quality
            kept.append((rate, quality))
    return kept


def curve(results: Results, modality: str, codec: str, metric: str, *, higher: bool) -> list[Point]:
    """(coded rate, quality) of one codec, quality negated where less is better."""
    points = []
    for record in results.of(modality):
        rate, value = shown(record["rates"]["coded"]), shown(record["metrics"].get(metric))
        if record["codec"] == codec and rate and value is not None:
            points.append((rate, value if higher else -value))
    return points


def table(results: Results, anchors: dict[str, str]) -> list[dict[str, Any]]:
    """One row a codec and metric: percent or the reason why there is none."""
    rows = []
    for modality, anchor in anchors.items():
        records = results.of(modality)
        names = list(dict.fromkeys(r["codec"] for r in records))
        metrics = list(dict.fromkeys(name for r in records for name in r["metrics"]))
        for metric in metrics:
            about = results.protocols[records[0]["protocol"]]["metrics"][metric]
            higher = about["better"] == "higher"
            base = curve(results, modality, anchor, metric, higher=higher)
            for codec in names:
                if codec == anchor or not base:
                    continue
                row = {"modality": modality, "anchor": anchor, "codec": codec, "metric": metric}
                row["label"] = about["label"]
                test = curve(results, modality, codec, metric, higher=higher)
                try:
                    percent, overlap = bd_rate(base, test)
                    rows.append({**row, "percent": percent, "overlap": overlap, "reason": None})
                except (ValueError, Warning) as error:
                    rows.append({**row, "percent": None, "overlap": None, "reason": str(error)})
    return rows
