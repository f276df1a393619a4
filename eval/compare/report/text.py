"""Numbers and problems of a comparison as text."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from ...metric import Summary
from ..results import Results

DECIMALS = {"psnr": 2, "si_sdr": 2, "ssim": 4, "ms_ssim": 4}
"""Decimals of metrics with other than 3."""
PLURALS = {"image": "images", "audio": "sounds", "text": "texts"}
MISSING = "–"


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


def problems(results: Results) -> list[str]:
    """Return a line for each metric, codec or item that is absent, failed or was left out."""
    lines = [f"{_label(results, name)} is absent: {reason}" for name, reason in results.absent.items()]
    failed: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in results.records:
        if not record.n and not record.failed:
            lines.append(f"{record.codec} was not measured: the data have no {record.modality}")
        if record.modelled and record.modelled.absent:
            lines.append(f"the modelled rate of {record.codec} is absent: {record.modelled.absent}")
        for reason, times in record.reasons.items():
            failed["Failed", reason][record.codec] += times
        for name, summary in record.metrics.items():
            for reason, times in summary.reasons.items():
                failed[f"{_label(results, name)} has no value", reason][record.codec] += times
    for (subject, reason), codecs in failed.items():
        times = codecs.total()
        lines.append(f"{subject} on {times} trial{'s' * (times != 1)} ({', '.join(codecs)}): {reason}")
    lines = list(dict.fromkeys(lines))
    if results.skipped:
        lines.append(f"{results.skipped} broken items of the data were left out")
    return lines


def _label(results: Results, metric: str) -> str:
    return next(p.metrics[metric].label for p in results.protocols.values() if metric in p.metrics)
