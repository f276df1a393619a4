"""The table of BD-rates of a comparison."""

from __future__ import annotations

from typing import Any

from tokenloom.metrics.bd_rate import DEFINITION as PROTOCOL
from tokenloom.metrics.bd_rate import Point, bd_rate

from .results import Results, shown

__all__ = ["PROTOCOL", "Point", "bd_rate", "curve", "table"]


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
                except ValueError as error:
                    rows.append({**row, "percent": None, "overlap": None, "reason": str(error)})
    return rows
