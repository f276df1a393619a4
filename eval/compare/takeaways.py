"""Three plain sentences with measured figures: what a person should take away."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from .bd import Point, curve
from .results import Results, shown


def takeaways(results: Results) -> list[str]:
    """At most three sentences, the most telling first; honest also where the learned codec loses."""
    told = [
        _learnable(results),
        _at_equal_rate(results, "image", "psnr"),
        _at_equal_rate(results, "image", "ms_ssim"),
        _below_the_anchor(results, "audio", "mel") or _at_equal_rate(results, "audio", "mel"),
        _saving(results, "image", "psnr"),
        _saving(results, "audio", "mel"),
        _text(results),
    ]
    return [line for line in told if line][:3]


def quality_at(points: list[Point], rate: float) -> float | None:
    """Quality of a curve at a rate, linear in log rate between its points.

    A curve counts as reaching 5 % beyond its ends, so that a codec of one rate has a figure at its
    own; further out there is none.
    """
    points = sorted(points)
    if not points or not points[0][0] / 1.05 <= rate <= points[-1][0] * 1.05:
        return None
    rate = min(max(rate, points[0][0]), points[-1][0])
    for (r0, q0), (r1, q1) in itertools.pairwise(points):
        if r0 <= rate <= r1 and r0 < r1:
            return q0 + (q1 - q0) * math.log(rate / r0) / math.log(r1 / r0)
    return max(q for _, q in points)


@dataclass(frozen=True)
class _Field:
    """The curves of one metric in one modality; quality is negated where less is better."""

    curves: dict[str, list[Point]]
    anchor: str
    learned: str | None
    rate: float
    rate_unit: str
    about: dict[str, Any]

    @property
    def label(self) -> str:
        return _in_sentence(self.about["label"])

    def value(self, quality: float) -> str:
        digits = 2 if self.about["unit"] == "dB" else 3
        return f"{abs(quality) if self.about['better'] == 'lower' else quality:.{digits}f} {self.about['unit']}".strip()

    def gap(self, quality: float, base: float) -> str:
        """ "0.31 dB better than image/jpeg" """
        return f"{self.value(abs(quality - base))} {'better' if quality >= base else 'worse'} than {self.anchor}"


def _field(results: Results, modality: str, metric: str) -> _Field | None:
    records = results.of(modality)
    if not any(shown(r["metrics"].get(metric)) is not None for r in records):
        return None
    about = results.protocols[records[0]["protocol"]]["metrics"][metric]
    names = list(dict.fromkeys(r["codec"] for r in records))
    anchor = next((a for a in results.environment["anchors"] if a in names), names[0])
    learned = next((r["codec"] for r in records if r["learned"]), None)
    mine = [r for r in records if r["codec"] == (learned or anchor)]
    usual = next((r for r in mine if learned and r["default"]), mine[len(mine) // 4])
    curves = {n: curve(results, modality, n, metric, higher=about["better"] == "higher") for n in names}
    rate = results.environment["rates"].get(modality) or shown(usual["rates"]["coded"])
    return _Field(curves, anchor, learned, rate, usual["rate_unit"], about)


def _in_sentence(label: str) -> str:
    """A metric's name within a sentence: "mel distance", but "PSNR"."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


def _at_equal_rate(results: Results, modality: str, metric: str) -> str:
    """The best codec, and how the learned one does, at the given rate, else its own, else the anchor's."""
    field = _field(results, modality, metric)
    if field is None:
        return ""
    at_rate = {name: quality_at(points, field.rate) for name, points in field.curves.items()}
    found = {name: quality for name, quality in at_rate.items() if quality is not None}
    if len(found) < 2:
        return ""
    best, second, *_ = sorted(found, key=found.get, reverse=True)
    base = found.get(field.anchor)
    text = f"At {field.rate:.3g} {field.rate_unit}, {best} has the best {field.label}: {field.value(found[best])}"
    if base is not None and best != field.anchor:
        text += f", {field.gap(found[best], base)}"
    if field.learned in found and field.learned != best:
        text += f"; {field.learned} has {field.value(found[field.learned])}"
        text += "" if base is None else f", {field.gap(found[field.learned], base)}"
    elif best == field.anchor:
        text += f"; next is {second} with {field.value(found[second])}"
    return text + "."


def _below_the_anchor(results: Results, modality: str, metric: str) -> str:
    """A learned codec where it needs no more bits than the anchor at its least; "" where it never does."""
    field = _field(results, modality, metric)
    if field is None or field.learned is None or not field.curves[field.anchor]:
        return ""
    base_rate, base = min(field.curves[field.anchor])
    below = [p for p in field.curves[field.learned] if p[0] <= base_rate]
    if not below or field.learned == field.anchor:
        return ""
    rate, quality = max(below, key=lambda p: p[1])
    better = "more" if field.about["better"] == "higher" else "less"
    return (
        f"At {rate:.3g} {field.rate_unit}, {field.learned} has a {field.label} of {field.value(quality)}, "
        f"{'better' if quality > base else 'worse'} than the {field.value(base)} of {field.anchor} at {base_rate:.3g} "
        f"{field.rate_unit}, the lowest of its sweep ({better} is better)."
    )


def _saving(results: Results, modality: str, metric: str) -> str:
    """The best BD-rate."""
    rows = [r for r in results.bd_rates if (r["modality"], r["metric"]) == (modality, metric)]
    rows = [r for r in rows if r["percent"] is not None]
    if not rows:
        return ""
    best = min(rows, key=lambda r: r["percent"])
    return (
        f"At equal {_in_sentence(best['label'])}, {best['codec']} needs {abs(best['percent']):.0f} % "
        f"{'fewer' if best['percent'] < 0 else 'more'} bits than {best['anchor']}, averaged over the "
        f"{best['overlap']:.0%} of the quality range that both reach (BD-rate)."
    )


def _learnable(results: Results) -> str:
    """Whose codes the transformer of the modelled rate saves most on, and whose least, at their default settings."""
    share = {
        r["codec"]: (r["rates"]["modelled"]["mean"] / r["rates"]["nominal"]["mean"], r)
        for r in results.records
        if r["n"] and r["default"] and r["rates"]["modelled"]["mean"] is not None and r["rates"]["nominal"]["mean"]
    }
    if not share:
        return ""
    best, *others = sorted(share, key=lambda name: share[name][0])
    r = share[best][1]
    text = (
        f"A small transformer that saw {r['modelled']['tokens_seen']:,} tokens of other items codes {best} in "
        f"{r['rates']['modelled']['mean']:.3g} {r['rate_unit']}, {share[best][0]:.0%} of its nominal rate"
    )
    return text + (f"; {others[-1]} in {share[others[-1]][0]:.0%} of its own." if others else ".")


def _text(results: Results) -> str:
    records = results.of("text")
    if not records:
        return ""
    best = min(records, key=lambda r: shown(r["rates"]["nominal"]))
    return (
        f"{best['codec']} holds text in {shown(best['rates']['nominal']):.2f} bits per byte (nominal); "
        f"{shown(best['metrics']['exact']):.0%} of the texts come back exactly."
    )
