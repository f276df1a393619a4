"""Numbers and problems of a comparison as text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ...metric import MetricDescription, Summary
from ...protocols import KODAK
from ..records import Place, Record
from ..results import Results

DECIMALS = {"psnr": 2, "si_sdr": 2, "ssim": 4, "ms_ssim": 4, "ssimulacra2": 2, "gmsd": 4, "lsd": 2, "f0": 1}
"""Decimals of metrics with other than 3."""
PLURALS = {"image": "images", "audio": "sounds", "text": "texts"}
MISSING = "–"
NAMED = 3
"""Largest number of items that a line names."""


def decimals(metric: str) -> int:
    """Return the number of decimals of a metric."""
    return DECIMALS.get(metric, 3)


def number(summary: Summary | None, decimals: int = 3) -> str:
    """Return the mean with its 95 % interval, and the number of perfect items."""
    value = summary and summary.value
    if summary is None or value is None:
        return MISSING
    if value == math.inf:
        return "∞"
    text = f"{value:.{decimals}f}"
    if summary.ci95 is not None:
        text += f" ±{summary.ci95:.{decimals}f}"
    return text + (f" (+{summary.perfect} ∞)" if summary.perfect else "")


MAIN = {"image": "psnr", "audio": "mel", "text": "exact"}
"""Main metric of a modality in one-line summaries and headlines."""


def summary(results: Results, records: list[Record]) -> str:
    """Return one line about a codec: its rates, and the range of the main metric."""
    first, measured = records[0], [r for r in records if r.n]
    if not measured:
        reason = next(iter(first.reasons), f"the data have no {first.modality}")
        return f"{first.codec}: no results: {reason}"
    rates = [rate for r in measured if (rate := r.rate()) is not None]
    line = f"{first.codec}: {span([f'{rate:.3g}' for rate in rates])} {first.rate_unit}"
    name = MAIN[first.modality]
    values = [value for r in measured if (value := r.value(name)) is not None]
    if values:
        about = results.metric(first.modality, name)
        shown = ["∞" if value == math.inf else f"{value:.{decimals(name)}f}" for value in values]
        line += f", {about.label} {span(shown)} {about.unit}".rstrip()
    failed = sum(r.failed for r in records)
    count = max(r.n for r in measured)
    return line + f" ({count} item{'s' * (count != 1)}" + (f", {failed} failed trials)" if failed else ")")


def span(texts: list[str]) -> str:
    """Return the first and the last of several texts: "0.1 to 1.9"."""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


@dataclass(frozen=True)
class MetricWords:
    """Values of a metric in sentences."""

    metric: str
    about: MetricDescription

    @property
    def label(self) -> str:
        """The label within a sentence: "mel distance", but "PSNR"."""
        label = self.about.label
        return label[0].lower() + label[1:] if label[1:2].islower() else label

    def values(self, places: Iterable[Place]) -> str:
        numbers = [f"{place.value:.{decimals(self.metric)}f}" for place in places]
        return f"{listed(numbers)} {self.about.unit}".strip()

    def gap(self, place: Place) -> str:
        """Return the gap to the best codec with its interval."""
        digits = decimals(self.metric)
        interval = "" if place.ci95 is None else f" ± {place.ci95:.{digits}f}"
        unit = f" {self.about.unit}".rstrip() + (" (one item, no interval)" if place.ci95 is None else "")
        return f"{place.gap:.{digits}f}{interval}{unit}"


def listed(texts: Iterable[str]) -> str:
    """Join texts: "a, b and c"."""
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def problems(results: Results) -> list[str]:
    """Return a line for each metric, codec or item that is absent, failed or was left out."""
    lines = [f"{_label(results, name)} is absent: {reason}" for name, reason in results.absent.items()]
    failed: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for record in results.records:
        if not record.n and not record.failed:
            lines.append(f"{record.codec} was not measured: the data have no {record.modality}")
        if record.modelled and record.modelled.absent:
            lines.append(f"the modelled rate of {record.codec} is absent: {record.modelled.absent}")
        for reason in record.reasons:
            failed["Failed", reason] += [(record.codec, key) for key in _keys(record, "failed", reason)]
        for name, summary in record.metrics.items():
            for reason, times in summary.reasons.items():
                keys = _keys(record, name, reason) or [""] * times  # a metric of the whole set has no items
                failed[f"{_label(results, name)} has no value", reason] += [(record.codec, key) for key in keys]
    for (subject, reason), trials in failed.items():
        codecs, keys = dict.fromkeys(c for c, _ in trials), [k for k in dict.fromkeys(k for _, k in trials) if k]
        named = ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
        where = f"{', '.join(codecs)}{': ' if named else ''}{named}"
        lines.append(f"{subject} on {len(trials)} trial{'s' * (len(trials) != 1)} ({where}): {reason}")
    lines = list(dict.fromkeys(lines))
    counts = {r.n + r.failed for r in results.records if r.protocol == "kodak"}
    if counts - {KODAK}:
        lines.append(f"protocol kodak is for the {KODAK} pictures of the Kodak set; this set has {max(counts)}")
    if results.skipped:
        lines.append(f"{results.skipped} broken items of the data were left out")
    return lines


def _keys(record: Record, name: str, reason: str) -> list[str]:
    return [row["key"] for row in record.items if row.get(name) == reason]


def _label(results: Results, metric: str) -> str:
    return next(p.metrics[metric].label for p in results.protocols.values() if metric in p.metrics)
