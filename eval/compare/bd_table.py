"""The table of BD-rates of a comparison."""

from __future__ import annotations

from tokenloom.metrics.bd_rate import Point, bd_rate

from .records import BDRow
from .results import Results


def rate_curve(results: Results, modality: str, codec: str, metric: str) -> list[Point]:
    """Return one codec's points of coded rate and quality. Quality is negated if a lower value is better."""
    sign = 1 if results.metric(modality, metric).better == "higher" else -1
    points = []
    for record in results.of(modality):
        rate, value = record.rate(), record.value(metric)
        if record.codec == codec and rate and value is not None:
            points.append((rate, sign * value))
    return points


def bd_table(results: Results, anchors: dict[str, str]) -> list[BDRow]:
    """Return one row per codec and metric.

    Args:
        results: Results with records and protocols.
        anchors: Modality → codec that the others are compared with.
    """
    rows = []
    for modality, anchor in anchors.items():
        records = results.of(modality)
        for metric in dict.fromkeys(name for r in records for name in r.metrics):
            base = rate_curve(results, modality, anchor, metric)
            for codec in dict.fromkeys(r.codec for r in records):
                if codec != anchor and base:
                    percent = overlap = reason = None
                    try:
                        percent, overlap = bd_rate(base, rate_curve(results, modality, codec, metric))
                    except ValueError as error:
                        reason = str(error)
                    label = results.metric(modality, metric).label
                    rows.append(BDRow(modality=modality, anchor=anchor, codec=codec, metric=metric, label=label,
                                      percent=percent, overlap=overlap, reason=reason))  # fmt: skip
    return rows
