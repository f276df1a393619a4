"""Pareto fronts of the records of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from ... import pareto
from ..records import Record
from ..results import Results


def on_front(results: Results, records: Sequence[Record], metric: str, kind: str = "coded") -> list[int]:
    """Return the numbers of the records on the front of a metric over a kind of rate, the lowest rate first."""
    if not records:
        return []
    higher = results.metric(records[0].modality, metric).better == "higher"
    return pareto.front([(r.rate(kind), r.value(metric)) for r in records], higher)
