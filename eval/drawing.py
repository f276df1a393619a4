"""Charts for papers, drawn with matplotlib's objects; spectrograms, and enlarged images."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from tokenloom import files, lazy
from tokenloom.metrics.audio import log_mel

from .charts import Axis, Chart, Point, SeriesStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

matplotlib = lazy.load("matplotlib", "eval")
figures = lazy.load("matplotlib.figure", "eval")
lines = lazy.load("matplotlib.lines", "eval")
ticker = lazy.load("matplotlib.ticker", "eval")
transforms = lazy.load("matplotlib.transforms", "eval")

DYNAMICS = 80 / 20 * math.log(10)
"""Range of a spectrogram, 80 dB, in natural logarithms."""
PANEL = (6.4, 4.4)
"""Width and height of a single panel in inches. Panels beside each other are narrower."""
SYMBOLS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "wedge": "v", "plus": "P", "cross": "X"}
"""Marker of a series → marker of matplotlib."""
FRONT = {"color": "#646a73", "alpha": 0.72, "lw": 2}
"""Arguments of the line of a Pareto front."""
PLACES = ((4, 4, "left", "bottom"), (-4, 4, "right", "bottom"), (4, -4, "left", "top"), (-4, -4, "right", "top"),
          (0, 6, "center", "bottom"), (0, -6, "center", "top"))  # fmt: skip
"""Places of a label around its point: offset in points, horizontal and vertical alignment."""


# -- charts ----------------------------------------------------------------------------------------


def draw(chart: Chart, x: str, *ys: str) -> Figure:
    """Draw a chart over the axis `x`, with a panel for each axis of `ys` and one legend below.

    No text is read as a formula, and a label that has no free place is left out.
    """
    width, height = PANEL if len(ys) == 1 else (3.6 * len(ys), 3.0)
    figure = figures.Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, len(ys), squeeze=False)[0]
    for axes, y in zip(panels, ys, strict=True):
        _panel(axes, chart, chart.axis(x), chart.axis(y))
    _legend(figure, chart, x, ys)
    if chart.label:
        for axes, y in zip(panels, ys, strict=True):
            _place_labels(axes, chart, x, y)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and as SVG. `path` has the stem of both."""
    with _any_glyph():
        for suffix in (".png", ".svg"):
            with files.writing(path.with_name(path.name + suffix)) as part:
                figure.savefig(part, format=suffix[1:], dpi=160)


@contextmanager
def _any_glyph() -> Iterator[None]:
    """Draw a box for a character that the font lacks, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _line(style: SeriesStyle) -> dict[str, Any]:
    """Return the arguments of a line in this style."""
    dash = (0, style.dash) if style.dash else "-"
    if not style.marker:
        return {"color": style.color, "ls": dash, "lw": 0.9, "zorder": 1}
    return {"color": style.color, "marker": SYMBOLS[style.marker], "ls": dash, "ms": 5, "lw": 1.6}


def _points(chart: Chart, number: int, x: str, y: str) -> list[Point]:
    """Return the points of a series that have both values, from left to right."""
    points = [p for p in chart.series[number].points if x in p.values and y in p.values]
    return sorted(points, key=lambda p: p.values[x])


def _panel(axes: Axes, chart: Chart, x: Axis, y: Axis) -> None:
    for axis, scale, direction in ((x, axes.set_xscale, axes.xaxis), (y, axes.set_yscale, axes.yaxis)):
        if axis.scale == "asinh":
            scale("asinh", linear_width=axis.linear)
            direction.set_major_locator(ticker.SymmetricalLogLocator(base=10, linthresh=axis.linear))
            direction.set_minor_locator(ticker.NullLocator())
        elif axis.scale in ("log", "log2"):
            scale("log", base=2 if axis.scale == "log2" else 10)
            direction.set_minor_formatter(ticker.NullFormatter())
            if axis.scale == "log":
                direction.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        direction.set_major_formatter("{x:g}")
        direction.set_inverted(axis.reversed)
        text = f"{axis.title} ({axis.about})" if axis.about else axis.title
        direction.set_label_text(text, parse_math=False)
    for number, series in enumerate(chart.series):
        points, style = _points(chart, number, x.name, y.name), series.style
        if points:
            axes.errorbar(
                [p.values[x.name] for p in points], [p.values[y.name] for p in points],
                [p.ci.get(y.name, 0.0) for p in points], elinewidth=0.7, label=series.name, **_line(style),
            )  # fmt: skip
    for ends in chart.links:
        values = [chart.series[series].points[point].values for series, point in ends]
        if all(x.name in v and y.name in v for v in values):
            axes.plot([v[x.name] for v in values], [v[y.name] for v in values],
                      color="#7b7f87", lw=0.8, ls=":", zorder=1)  # fmt: skip
    for front in chart.fronts:
        if (front.x, front.y) == (x.name, y.name):
            values = [chart.series[series].points[point].values for series, point in front.points]
            axes.plot([v[x.name] for v in values], [v[y.name] for v in values],
                      drawstyle="steps-post", zorder=0.5, **FRONT)  # fmt: skip
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=9)


def _legend(figure: Figure, chart: Chart, x: str, ys: Sequence[str]) -> None:
    """Add a legend of all series with a point below the panels, and make the figure higher by its height."""
    shown = [s for i, s in enumerate(chart.series) if any(_points(chart, i, x, y) for y in ys)]
    if not shown:
        return  # a lossless codec alone has no point to draw
    width, height = figure.get_size_inches()
    names = [textwrap.fill(series.name, int(width * 12)) for series in shown]
    handles = [lines.Line2D([], [], **_line(series.style)) for series in shown]
    if any(front.x == x and front.y in ys for front in chart.fronts):
        names.append("Pareto front")
        handles.append(lines.Line2D([], [], **FRONT))
    longest = max(len(line) for name in names for line in name.splitlines())
    columns = max(1, min(len(names), int(width * 12 / (longest + 8))))
    legend = figure.legend(
        handles, ["x"] * len(names), loc="outside lower center", frameon=False, fontsize=9, ncols=columns
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):  # set here: a first "_" would hide the entry
        text.set(text=name, parse_math=False)
    rows = sum(len(name.splitlines()) for name in names) / columns
    figure.set_size_inches(width, height + 0.19 * math.ceil(rows))


def _place_labels(axes: Axes, chart: Chart, x: str, y: str) -> None:
    """Write the value of the label axis beside each point, where no other label or point is."""
    with _any_glyph():
        axes.get_figure().draw_without_rendering()  # the layout is known after this
    name = chart.label.name
    axes.set_title(f"At each point: {chart.label.title}", fontsize=9, parse_math=False)
    points = [p for i in range(len(chart.series)) for p in _points(chart, i, x, y) if name in p.values]
    spots = [tuple(axes.transData.transform((p.values[x], p.values[y]))) for p in points]
    taken = [transforms.Bbox.from_bounds(left - 4, bottom - 4, 8, 8) for left, bottom in spots]
    for point in points:
        for dx, dy, horizontal, vertical in PLACES:
            label = axes.annotate(
                f"{point.values[name]:.2g}", (point.values[x], point.values[y]), (dx, dy), fontsize=7,
                textcoords="offset points", ha=horizontal, va=vertical, in_layout=False,
            )  # fmt: skip
            box = label.get_window_extent()
            if axes.bbox.containsx(box.x1) and axes.bbox.containsy(box.y1) and not box.count_overlaps(taken):
                taken.append(box)
                break
            label.remove()


# -- images ----------------------------------------------------------------------------------------


def spectrograms(waveforms: Sequence[Tensor], sample_rate: int, size: tuple[int, int]) -> list[Image.Image]:
    """Draw log-mel spectrograms of waveforms (channels, samples), low frequencies at the bottom.

    All share one color scale: DYNAMICS down from the loudest value of the first.
    """
    images, loudest = [], None
    for waveform in waveforms:
        mel = log_mel(waveform, sample_rate, 0.032, 64, 1e-6).mean(0)
        loudest = mel.max().item() if loudest is None else loudest
        level = ((mel - loudest + DYNAMICS) / DYNAMICS).clamp(0, 1).flip(0)
        pixels = (matplotlib.colormaps["magma"](level.numpy())[..., :3] * 255).astype("uint8")
        images.append(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    return images


def enlarge(image: Image.Image, side: int) -> Image.Image:
    """Enlarge an image by the largest whole factor that keeps its sides at most `side` pixels."""
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
