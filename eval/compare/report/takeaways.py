"""Takeaways: up to three sentences with measured values that summarize a comparison."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from tokenloom.metrics.bd_rate import Point

from ...metric import MetricDescription
from ..results import Results

MOST = 3
TOLERANCE = 1.05
"""Factor by which a curve extends beyond its ends, so that a codec with a single rate has a value near it."""


def takeaways(results: Results) -> list[str]:
    """Return up to MOST sentences, the most important first."""
    lines = [
        _learnability(results),
        _at_equal_rate(results, "image", "psnr"),
        _at_equal_rate(results, "image", "ms_ssim"),
        _below_the_anchor(results, "audio", "mel") or _at_equal_rate(results, "audio", "mel"),
        _best_bd_rate(results, "image", "psnr"),
        _best_bd_rate(results, "audio", "mel"),
        _text(results),
    ]
    return [line for line in lines if line][:MOST]


def quality_at(points: list[Point], rate: float) -> float | None:
    """Return the quality of a curve at a rate, linear in log rate; None outside the curve (see TOLERANCE)."""
    points = sorted(points)
    if not points or not points[0][0] / TOLERANCE <= rate <= points[-1][0] * TOLERANCE:
        return None
    rate = min(max(rate, points[0][0]), points[-1][0])
    for (r0, q0), (r1, q1) in itertools.pairwise(points):
        if r0 <= rate <= r1 and r0 < r1:
            return q0 + (q1 - q0) * math.log(rate / r0) / math.log(r1 / r0)
    return max(q for _, q in points)


@dataclass(frozen=True)
class _MetricCurves:
    """Curves (see `Results.curve`) of one metric in one modality."""

    curves: dict[str, list[Point]]
    anchor: str
    learned: str | None
    rate: float
    rate_unit: str
    metric: MetricDescription

    @property
    def label(self) -> str:
        return _in_sentence(self.metric.label)

    def value(self, quality: float) -> str:
        digits = 2 if self.metric.unit == "dB" else 3
        value = abs(quality) if self.metric.better == "lower" else quality
        return f"{value:.{digits}f} {self.metric.unit}".strip()

    def gap(self, quality: float, base: float) -> str:
        """Return the difference to the anchor, such as "0.31 dB better than image/jpeg"."""
        return f"{self.value(abs(quality - base))} {'better' if quality >= base else 'worse'} than {self.anchor}"


def _curves(results: Results, modality: str, metric: str) -> _MetricCurves | None:
    records = results.of(modality)
    if not any(r.value(metric) is not None for r in records):
        return None
    names = list(dict.fromkeys(r.codec for r in records))
    anchor = next((a for a in results.environment.anchors if a in names), names[0])
    learned = next((r.codec for r in records if r.learned), None)
    reference = [r for r in records if r.codec == (learned or anchor)]
    usual = next((r for r in reference if learned and r.default), reference[len(reference) // 4])
    curves = {name: results.curve(modality, name, metric) for name in names}
    rate = results.environment.rates.get(modality) or usual.rate()
    return _MetricCurves(curves, anchor, learned, rate, usual.rate_unit, results.metric(modality, metric))


def _in_sentence(label: str) -> str:
    """Return a metric's label for use within a sentence: "mel distance", but "PSNR"."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


def _at_equal_rate(results: Results, modality: str, metric: str) -> str:
    """Compare the best and the learned codec at one rate: the user's, else the learned codec's, else the anchor's."""
    curves = _curves(results, modality, metric)
    if curves is None:
        return ""
    at_rate = {name: quality_at(points, curves.rate) for name, points in curves.curves.items()}
    known = {name: quality for name, quality in at_rate.items() if quality is not None}
    if len(known) < 2:
        return ""
    best, second, *_ = sorted(known, key=lambda name: known[name], reverse=True)
    base = known.get(curves.anchor)
    text = f"At {curves.rate:.3g} {curves.rate_unit}, {best} has the best {curves.label}: {curves.value(known[best])}"
    if base is not None and best != curves.anchor:
        text += f", {curves.gap(known[best], base)}"
    if curves.learned in known and curves.learned != best:
        text += f"; {curves.learned} has {curves.value(known[curves.learned])}"
        text += "" if base is None else f", {curves.gap(known[curves.learned], base)}"
    elif best == curves.anchor:
        text += f"; next is {second} with {curves.value(known[second])}"
    return text + "."


def _below_the_anchor(results: Results, modality: str, metric: str) -> str:
    """Compare a learned codec, at rates up to the anchor's lowest one, with the anchor; "" without such rates."""
    curves = _curves(results, modality, metric)
    if curves is None or curves.learned is None or not curves.curves[curves.anchor]:
        return ""
    base_rate, base = min(curves.curves[curves.anchor])
    below = [p for p in curves.curves[curves.learned] if p[0] <= base_rate]
    if not below or curves.learned == curves.anchor:
        return ""
    rate, quality = max(below, key=lambda p: p[1])
    return (
        f"At {rate:.3g} {curves.rate_unit}, {curves.learned} has a {curves.label} of {curves.value(quality)}, "
        f"{'better' if quality > base else 'worse'} than the {curves.value(base)} of {curves.anchor} at "
        f"{base_rate:.3g} {curves.rate_unit}, the lowest rate of its sweep ({curves.metric.better} is better)."
    )


def _best_bd_rate(results: Results, modality: str, metric: str) -> str:
    rows = [r for r in results.bd_rates if (r.modality, r.metric) == (modality, metric) and r.percent is not None]
    if not rows:
        return ""
    best = min(rows, key=lambda r: r.percent)
    return (
        f"At equal {_in_sentence(best.label)}, {best.codec} needs {abs(best.percent):.0f} % "
        f"{'fewer' if best.percent < 0 else 'more'} bits than {best.anchor}, averaged over the "
        f"{best.overlap:.0%} of the quality range that both reach (BD-rate)."
    )


def _learnability(results: Results) -> str:
    """Compare the codecs with the smallest and the largest ratio of modelled to nominal rate."""
    share = {
        r.codec: (r.rates["modelled"].mean / r.rates["nominal"].mean, r)
        for r in results.records
        if r.n and r.default and r.rates["modelled"].mean is not None and r.rates["nominal"].mean
    }
    if not share:
        return ""
    best, *others = sorted(share, key=lambda name: share[name][0])
    r = share[best][1]
    text = (
        f"A small transformer that saw {r.modelled.tokens_seen:,} tokens of other items codes {best} at "
        f"{r.rates['modelled'].mean:.3g} {r.rate_unit}, {share[best][0]:.0%} of its nominal rate"
    )
    return text + (f", and {others[-1]} at {share[others[-1]][0]:.0%} of its own." if others else ".")


def _text(results: Results) -> str:
    records = results.of("text")
    if not records:
        return ""
    best = min(records, key=lambda r: r.rate("nominal"))
    return (
        f"{best.codec} codes text at {best.rate('nominal'):.2f} bits per byte (nominal); "
        f"{best.value('exact'):.0%} of the texts come back exactly."
    )
