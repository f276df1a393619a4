"""Plots as files, PNG and SVG: rate and distortion, a picture a modality and metric; distortion and perception."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from . import adaptive
from .results import Results, shown
from .tables import measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2f6fde", "#d9622b", "#2a9d6f", "#9b59c6", "#c23b60", "#8a7a2e", "#3aa3b8", "#7b7f87", "#b0743a", "#5a5fc9")
"""Distinguishable on white and on black; a codec has the same colour everywhere."""
MARKERS = "osD^vPX*<>"
DISTORTION = {"image": "psnr", "audio": "mel"}
"""What a plot of distortion and perception has on its first axis; on its second is the kernel distance."""
NEAR = 0.01
"""Kernel distances below this are drawn on a linear scale: they change sign from one set to the next."""
LABELLED = 24
"""Points whose rates are all written beside them; of more only the ends of a curve."""


def colors(results: Results) -> dict[str, str]:
    """Codec → colour, by order of appearance."""
    names = dict.fromkeys(r["codec"] for r in results.records)
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def write(results: Results) -> list[str]:
    """Draw every curve to folder/plots; returns the stems, such as "image-psnr" and "image-psnr-modelled"."""
    stems = []
    for modality in ("image", "audio"):
        kinds = ["coded"]
        kinds += ["modelled"] if any(shown(r["rates"]["modelled"]) for r in results.of(modality)) else []
        for metric, kind in itertools.product(measured(results, modality), kinds):
            figure = draw(results, modality, metric, kind)
            folder = results.folder / "plots"
            folder.mkdir(parents=True, exist_ok=True)
            stems.append(f"{modality}-{metric}" if kind == "coded" else f"{modality}-{metric}-{kind}")
            for suffix in ("png", "svg"):
                figure.savefig(folder / f"{stems[-1]}.{suffix}", dpi=160)
        if figure := draw_perception(results, modality):
            stems.append(perception_stem(modality))
            for suffix in ("png", "svg"):
                figure.savefig(results.folder / "plots" / f"{stems[-1]}.{suffix}", dpi=160)
    write_targets(results)
    return stems


def write_targets(results: Results) -> None:
    """A plot for every codec that was tried with targets: mean and 10th percentile over mean tokens."""
    for codec, records in adaptive.tried(results).items():
        figure = draw_targets([r["targets"] for r in records])
        folder = results.folder / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"{adaptive.stem(codec)}.{suffix}", dpi=160)


def draw_targets(found: list[dict[str, Any]]) -> Figure:
    """Two panels, the mean PSNR and its 10th percentile; one curve a way to share tokens out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, (key, title) in zip(panels, (("mean", "mean"), ("p10", "10th percentile")), strict=True):
        for i, name in enumerate(found[0]):
            points = [(f[name]["tokens"], f[name]["psnr"][key]) for f in found if f[name]["psnr"][key] is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=COLORS[i], marker=MARKERS[i], ms=4, lw=1.4,
                    ls="--" if name == "fixed" else "-", label=adaptive.LABELS[name],
                )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("mean tokens per picture")
        axes.set_ylabel(f"PSNR / dB, {title}")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if panels[0].lines:
        panels[0].legend(frameon=False, fontsize=8)
    return figure


def draw(results: Results, modality: str, metric: str, kind: str = "coded") -> Figure:
    """Quality over rate, one curve a codec, log rate axis, 95 % intervals over items as bars."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    records = results.of(modality)
    about = results.protocols[records[0]["protocol"]]["metrics"][metric]
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    palette, every = colors(results), []
    for i, codec in enumerate(dict.fromkeys(r["codec"] for r in records)):
        points = sorted(_points(records, codec, metric, kind))
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
    axes.set_xlabel(f"{records[0]['rate_unit']}, {kind}")
    better = "more is better" if about["better"] == "higher" else "less is better"
    axes.set_ylabel(f"{about['label']}{' / ' + about['unit'] if about['unit'] else ''} ({better})")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.containers:  # a lossless codec alone has no point to draw
        axes.legend(frameon=False, fontsize=9)
    return figure


def perception_stem(modality: str) -> str:
    """Name of the plot of distortion and perception under plots/, without its suffix."""
    return f"{modality}-perception"


def draw_perception(results: Results, modality: str) -> Figure | None:
    """Perception (KID, down is better) over distortion (right is better), points labelled with their rate.

    One curve a codec. A thin line leads from each point of a codec to that of a decoder behind it: the same bits.
    None where either figure was not measured.
    """
    from matplotlib.figure import Figure

    records = results.of(modality)
    curves = {codec: places for codec, places in _places(records, DISTORTION[modality]).items() if places}
    if not curves:
        return None
    about = results.protocols[records[0]["protocol"]]["metrics"]
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot()
    palette = colors(results)
    every = [place for places in curves.values() for place in places.values()]
    for i, (codec, places) in enumerate(curves.items()):
        x, y, rates = zip(*places.values(), strict=True)
        axes.plot(x, y, color=palette[codec], marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.4, label=codec)
        for at in range(len(x)) if len(every) <= LABELLED else {0, len(x) - 1}:
            axes.annotate(f"{rates[at]:.2g}", (x[at], y[at]), (3, 4), textcoords="offset points", fontsize=7)
        for setting, (x0, y0, _) in curves.get(codec.rpartition("+")[0], {}).items():
            if setting in places:
                x1, y1, _ = places[setting]
                axes.plot((x0, x1), (y0, y1), color="#7b7f87", lw=0.8, ls=":", zorder=1)
    _perception_axes(axes, [y for _, y, _ in every], about[DISTORTION[modality]], about["kid"]["label"])
    axes.set_title(f"At each point: {records[0]['rate_unit']}, coded. Best is at the lower right.", fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _perception_axes(axes: Axes, kids: list[float], distortion: dict[str, Any], kid: str) -> None:
    """Scales and names."""
    _scale_distance(axes, kids)
    if distortion["better"] == "lower":
        axes.invert_xaxis()
    unit = f" / {distortion['unit']}" if distortion["unit"] else ""
    words = {"higher": "more is better", "lower": "axis reversed: less is better"}
    axes.set_xlabel(f"{distortion['label']}{unit} ({words[distortion['better']]})")
    axes.set_ylabel(f"{kid} (less is more real)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _scale_distance(axes: Axes, kids: list[float]) -> None:
    """A logarithmic axis down to the smallest distance that matters, linear from there through 0 and below."""
    positive = [value for value in kids if value > 0]
    if positive:
        axes.set_yscale("symlog", linthresh=max(NEAR, 10 ** math.floor(math.log10(min(positive)))))


def _places(records: list[dict[str, Any]], distortion: str) -> dict[str, dict[Any, tuple[float, float, float]]]:
    """Codec → setting → (distortion, KID, coded rate), in order of the rate, where all three are finite."""
    found: dict[str, dict[Any, tuple[float, float, float]]] = {r["codec"]: {} for r in records}
    for r in sorted(records, key=lambda r: shown(r["rates"]["coded"])):
        place = *(shown(r["metrics"].get(name)) for name in (distortion, "kid")), shown(r["rates"]["coded"])
        if all(value is not None and math.isfinite(value) for value in place):
            found[r["codec"]][r["setting"]] = place
    return found


def _points(records: list[dict[str, Any]], codec: str, metric: str, kind: str) -> list[tuple[float, float, float]]:
    """(rate, mean, half width of the 95 % interval) of the settings that have finite figures."""
    points = []
    for record in records:
        summary, rate = record["metrics"].get(metric), shown(record["rates"][kind])
        value = shown(summary)
        if record["codec"] == codec and rate and value is not None and math.isfinite(value):
            points.append((rate, value, summary["ci95"] or 0.0))
    return points
