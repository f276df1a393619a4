"""Plots of a comparison: quality over rate, perception over distortion, and targets at equal mean tokens."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ...drawing import COLORS, GRAY, MARKERS, style
from ...metric import MetricDescription
from ..records import Record, TargetRecord
from ..results import Results
from ..targets import FIXED, LABELS

NEAR = 0.01
"""Kernel distances below this have a linear scale: their sign changes from one set to the next."""
DISTORTION = {"image": "psnr", "audio": "mel"}
"""Horizontal axis of the plot of perception over distortion."""
LABELED = 24
"""Largest number of points that are all labeled with their rates. With more points, only the ends of a curve are."""


def write(results: Results) -> None:
    """Draw every plot of a comparison as PNG and SVG: "image-psnr", "image-psnr-modelled", "image-perception", …"""
    for modality in ("image", "audio"):
        kinds = ["coded", *(["modelled"] if any(r.rate("modelled") for r in results.of(modality)) else [])]
        for metric in results.measured(modality):
            for kind in kinds:
                name = f"{modality}-{metric}" if kind == "coded" else f"{modality}-{metric}-{kind}"
                _save(draw_curves(results, modality, metric, kind), results, name)
        if figure := draw_perception(results, modality):
            _save(figure, results, perception_plot(modality))
    for codec, records in results.with_targets().items():
        _save(draw_targets([r.targets for r in records]), results, targets_plot(codec))


def _save(figure: Figure, results: Results, name: str) -> None:
    path = plot_path(results, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=160)


def plot_path(results: Results, name: str) -> Path:
    """Return the path of a plot's SVG file."""
    return results.folder / "plots" / f"{name}.svg"


def perception_plot(modality: str) -> str:
    """Return the name of the plot of perception over distortion."""
    return f"{modality}-perception"


def targets_plot(codec: str) -> str:
    """Return the name of a codec's plot of targets."""
    return "targets-" + re.sub(r"[^A-Za-z0-9]+", "-", codec).strip("-")


def colors(results: Results) -> dict[str, str]:
    """Return codec → color, in order of appearance."""
    names = dict.fromkeys(r.codec for r in results.records)
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def _label(metric: MetricDescription) -> str:
    return " / ".join(filter(None, (metric.label, metric.unit)))


# -- quality over rate -----------------------------------------------------------------------------


def draw_curves(results: Results, modality: str, metric: str, kind: str = "coded") -> Figure:
    """Draw quality over rate: one curve per codec, a log rate axis, 95 % intervals over items as bars."""
    records, about = results.of(modality), results.metric(modality, metric)
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    palette, every = colors(results), []
    for i, codec in enumerate(dict.fromkeys(r.codec for r in records)):
        points = sorted(_curve_points(records, codec, metric, kind))
        if points:
            rates, values, errors = zip(*points, strict=True)
            every += values
            axes.errorbar(
                rates, values, errors, color=palette[codec], marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.6,
                elinewidth=0.7, label=codec,
            )  # fmt: skip
    if metric == "kid":
        _scale_distance(axes, every)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{records[0].rate_unit}, {kind}")
    axes.set_ylabel(f"{_label(about)} ({about.better} is better)")
    style(axes)
    if axes.containers:  # a lossless codec alone has no point to draw
        axes.legend(frameon=False, fontsize=9)
    return figure


def _curve_points(records: list[Record], codec: str, metric: str, kind: str) -> list[tuple[float, float, float]]:
    """Return rate, mean and half width of the 95 % interval of the settings with finite values."""
    points = []
    for record in records:
        value, rate = record.value(metric), record.rate(kind)
        if record.codec == codec and rate and value is not None and math.isfinite(value):
            points.append((rate, value, record.metrics[metric].ci95 or 0.0))
    return points


def _scale_distance(axes: Axes, distances: list[float]) -> None:
    """Make the vertical axis logarithmic down to the smallest relevant distance, and linear below, through 0."""
    positive = [value for value in distances if value > 0]
    if positive:
        axes.set_yscale("symlog", linthresh=max(NEAR, 10 ** math.floor(math.log10(min(positive)))))


# -- perception over distortion --------------------------------------------------------------------


def draw_perception(results: Results, modality: str) -> Figure | None:
    """Draw KID (lower is better) over distortion (right is better), with the rate of each point.

    There is one curve per codec. A dotted line leads from each point of a codec to that of a diffusion decoder of the
    same codes.

    Returns:
        None if one of the two metrics was not measured.
    """
    records = results.of(modality)
    curves = {codec: points for codec, points in _perception_points(records, DISTORTION[modality]).items() if points}
    if not curves:
        return None
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot()
    palette = colors(results)
    every = [point for points in curves.values() for point in points.values()]
    for i, (codec, points) in enumerate(curves.items()):
        x, y, rates = zip(*points.values(), strict=True)
        axes.plot(x, y, color=palette[codec], marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.4, label=codec)
        for at in range(len(x)) if len(every) <= LABELED else {0, len(x) - 1}:
            axes.annotate(f"{rates[at]:.2g}", (x[at], y[at]), (3, 4), textcoords="offset points", fontsize=7)
        for setting, (x0, y0, _) in curves.get(codec.rpartition("+")[0], {}).items():
            if setting in points:
                x1, y1, _ = points[setting]
                axes.plot((x0, x1), (y0, y1), color=GRAY, lw=0.8, ls=":", zorder=1)
    _scale_distance(axes, [y for _, y, _ in every])
    about = results.metric(modality, DISTORTION[modality])
    if about.better == "lower":
        axes.invert_xaxis()
    better = "higher is better" if about.better == "higher" else "axis reversed: lower is better"
    axes.set_xlabel(f"{_label(about)} ({better})")
    axes.set_ylabel(f"{results.metric(modality, 'kid').label} (lower is closer to real data)")
    style(axes)
    axes.set_title(f"At each point: {records[0].rate_unit}, coded. Best is at the lower right.", fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _perception_points(records: list[Record], distortion: str) -> dict[str, dict[Any, tuple[float, float, float]]]:
    """Return codec → setting → (distortion, KID, coded rate), in order of the rate, where all are finite."""
    found: dict[str, dict[Any, tuple[float, float, float]]] = {r.codec: {} for r in records}
    for r in sorted(records, key=lambda r: r.rate()):
        point = (r.value(distortion), r.value("kid"), r.rate())
        if all(value is not None and math.isfinite(value) for value in point):
            found[r.codec][r.setting] = point
    return found


# -- targets ---------------------------------------------------------------------------------------


def draw_targets(targets: list[dict[str, TargetRecord]]) -> Figure:
    """Draw mean PSNR and its 10th percentile over mean tokens, one curve for fixed settings and each target."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, (key, title) in zip(panels, (("mean", "mean"), ("p10", "10th percentile")), strict=True):
        for i, name in enumerate(targets[0]):
            points = [(t[name].tokens, value) for t in targets if (value := getattr(t[name].psnr, key)) is not None]
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
