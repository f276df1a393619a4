"""Plots of quality over rate, and of targets."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ...drawing import COLORS, MARKERS, style
from ..records import Record, TargetRecord
from ..results import Results
from ..targets import FIXED, LABELS

NEAR = 0.01
"""Kernel distances below this have a linear scale: their sign changes from one set to the next."""


def colors(results: Results) -> dict[str, str]:
    """Return codec → color, in order of appearance."""
    names = dict.fromkeys(r.codec for r in results.records)
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def draw(results: Results, modality: str, metric: str, kind: str = "coded") -> Figure:
    """Draw quality over rate: one curve per codec, a log rate axis, 95 % intervals over items as bars."""
    records, about = results.of(modality), results.metric(modality, metric)
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    palette, every = colors(results), []
    for i, codec in enumerate(dict.fromkeys(r.codec for r in records)):
        points = sorted(_points(records, codec, metric, kind))
        if points:
            rates, values, errors = zip(*points, strict=True)
            every += values
            axes.errorbar(
                rates, values, errors, color=palette[codec], marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.6,
                elinewidth=0.7, label=codec,
            )  # fmt: skip
    if metric == "kid":
        scale_distance(axes, every)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{records[0].rate_unit}, {kind}")
    axes.set_ylabel(f"{about.label}{' / ' + about.unit if about.unit else ''} ({about.better} is better)")
    style(axes)
    if axes.containers:  # a lossless codec alone has no point to draw
        axes.legend(frameon=False, fontsize=9)
    return figure


def draw_targets(found: list[dict[str, TargetRecord]]) -> Figure:
    """Draw mean PSNR and its 10th percentile over mean tokens, one curve for fixed settings and each target."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, (key, title) in zip(panels, (("mean", "mean"), ("p10", "10th percentile")), strict=True):
        for i, name in enumerate(found[0]):
            points = [(f[name].tokens, value) for f in found if (value := getattr(f[name].psnr, key)) is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=COLORS[i], marker=MARKERS[i], ms=4, lw=1.4,
                    ls="--" if name == FIXED else "-", label=LABELS[name],
                )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("mean tokens per image")
        axes.set_ylabel(f"PSNR / dB, {title}")
        style(axes)
    if panels[0].lines:
        panels[0].legend(frameon=False, fontsize=8)
    return figure


def scale_distance(axes: Axes, distances: list[float]) -> None:
    """Make the vertical axis logarithmic down to the smallest relevant distance, and linear below, through 0."""
    positive = [value for value in distances if value > 0]
    if positive:
        axes.set_yscale("symlog", linthresh=max(NEAR, 10 ** math.floor(math.log10(min(positive)))))


def _points(records: list[Record], codec: str, metric: str, kind: str) -> list[tuple[float, float, float]]:
    """Return rate, mean and half width of the 95 % interval of the settings with finite values."""
    points = []
    for record in records:
        value, rate = record.value(metric), record.rate(kind)
        if record.codec == codec and rate and value is not None and math.isfinite(value):
            points.append((rate, value, record.metrics[metric].ci95 or 0.0))
    return points
