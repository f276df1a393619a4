"""Which codec to take: the best one in each metric, among the settings below a limit of the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..compare.records import Record
from ..compare.report.standings import differences, item_values
from ..compare.results import Results
from .records import Pick, Recommendation

LIMITS = {"image": (0.1, 0.25), "audio": (3.0, 6.0, 12.0)}
"""Modality → limits of the coded rate, in bits per pixel and kbit/s."""
DEFINITION = (
    "the codec with the best mean at a setting whose coded rate, the mean over the set, is not above the limit; "
    "nothing is interpolated. The interval is the 95 % interval of the mean difference over items (paired, Student's "
    "t) to the next codec at its own best setting; a difference inside it is a tie. The intervals of several metrics "
    "and limits are not corrected for their number"
)


def recommendations(results: Results, modality: str) -> list[Recommendation]:
    """Return a recommendation for each limit and each metric that has values per item."""
    records = results.of(modality)
    names = [name for name in results.measured(modality) if any(item_values(r, name) for r in records)]
    limits = reachable(LIMITS.get(modality, ()), [record.rate() or 0.0 for record in records])
    return [recommend(results, records, name, limit) for name in names for limit in limits]


def reachable(limits: Sequence[float], rates: Sequence[float]) -> Sequence[float]:
    """Return the limits; if all rates are above them, as those of stereo music, doubled until the first is reached."""
    factor = 1
    if limits and rates and min(rates) > max(limits):
        while min(rates) > factor * limits[0]:
            factor *= 2
    return [factor * limit for limit in limits]


def recommend(results: Results, records: Sequence[Record], metric: str, limit: float) -> Recommendation:
    """Rank the codecs by their best setting in a metric whose mean coded rate is at most `limit`."""
    sign = 1 if results.metric(records[0].modality, metric).better == "higher" else -1
    best: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.rate() or 0.0):
        value, rate = record.value(metric), record.rate()
        if value is None or not rate or rate > limit:
            continue
        held = best.get(record.codec)
        if held is None or sign * value > sign * _value(held, metric):
            best[record.codec] = record
    order = sorted(best.values(), key=lambda r: -sign * _value(r, metric))
    return Recommendation(metric=metric, limit=limit, picks=[_pick(order[0], r, metric, sign) for r in order])


def _pick(first: Record, record: Record, metric: str, sign: int) -> Pick:
    """Return a place below the first. The gap is that of the items that both have, as is its interval.

    The gap to a lossless first one is infinite. Two lossless ones tie.
    """
    best, value = _value(first, metric), _value(record, metric)
    found = differences(item_values(first, metric), item_values(record, metric))
    gap, ci95 = abs(best - value) if found.mean is None else sign * found.mean + 0.0, found.ci95  # no −0
    if math.inf in (best, value):
        gap, ci95 = (0.0, 0.0) if best == value else (math.inf, None)
    return Pick(
        codec=record.codec, value=value, gap=gap, ci95=ci95, n=found.n, setting=record.setting_text,
        rate=record.rate() or 0.0,
    )  # fmt: skip


def _value(record: Record, metric: str) -> float:
    value = record.value(metric)
    assert value is not None  # the caller has checked
    return value
