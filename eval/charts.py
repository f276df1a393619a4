"""Charts: curves of several series over axes to choose from.

The script of a report draws them (templates/chart.js), and `drawing.draw` draws the same for papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

COLORS = ("#2f6fde", "#d0591f", "#21916a", "#9b59c6", "#c23b60", "#857528", "#2a90a8", "#7b7f87", "#b0743a", "#6468d6")
"""Colors that can be told apart on white and on black, with a contrast of at least 3 to both."""
MARKERS = {
    "circle": "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0-8.4 0Z",
    "square": "M-3.8-3.8h7.6v7.6h-7.6Z",
    "triangle": "M0-5L4.8 3.6H-4.8Z",
    "diamond": "M0-5.2L5.2 0L0 5.2L-5.2 0Z",
    "wedge": "M0 5L4.8-3.6H-4.8Z",
    "plus": "M-1.7-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3Z",
    "cross": "M0-2.3L2.6-4.9L4.9-2.6L2.3 0L4.9 2.6L2.6 4.9L0 2.3L-2.6 4.9L-4.9 2.6L-2.3 0L-4.9-2.6L-2.6-4.9Z",
}
"""Marker → path around the origin. Seven markers and ten colors make seventy pairs."""
DASHES = ((), (5.0, 1.5), (1.5, 1.2), (6.0, 1.4, 1.4, 1.4))
"""Lengths of dashes and gaps in line widths."""
THIN_DASHES = ((4.0, 3.0), (1.5, 2.0), (7.0, 2.5, 1.5, 2.5))
"""The same of thin lines."""
NEAR = 0.01
"""Kernel distances below this have a linear scale: their sign changes from one set to the next."""


@dataclass(frozen=True)
class SeriesStyle:
    """Color, marker and dashes of a series: each alone tells neighbors apart.

    A series without a marker, "", has a thin line and no marks: a curve that others published.
    """

    color: str = COLORS[0]
    marker: str = "circle"
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Axis:
    """Axis of a chart. `name` is the key of its values in the points.

    `scale` is "linear", "log", "log2" or "asinh", which is linear below `linear` and logarithmic above, on both sides
    of 0. `about` says which direction is better.
    """

    name: str
    label: str
    unit: str = ""
    about: str = ""
    scale: str = "linear"
    linear: float = 1.0
    reversed: bool = False

    @property
    def title(self) -> str:
        """The label with its unit."""
        return " / ".join(filter(None, (self.label, self.unit)))


@dataclass
class Point:
    """Point of a series. `values` has a finite value for each axis with one, `ci` half widths of 95 % intervals."""

    text: str
    values: dict[str, float]
    ci: dict[str, float] = field(default_factory=dict)


@dataclass
class Series:
    """Curve of a chart. `perfect` names the axes on which some point is infinite."""

    name: str
    points: list[Point]
    style: SeriesStyle = field(default_factory=SeriesStyle)
    perfect: list[str] = field(default_factory=list)


@dataclass
class Front:
    """Pareto front over the axes `x` and `y`: its points, (series, point) each, from left to right."""

    x: str
    y: str
    points: list[tuple[int, int]]


@dataclass
class Chart:
    """Series over one of the axes `x` and one of the axes `y`. The first of each is the default.

    `label` is the axis whose value stands beside each point, and `links` joins pairs of points, (series, point) each.
    `fronts` has at most one front for a pair of axes.
    """

    title: str
    x: list[Axis]
    y: list[Axis]
    series: list[Series]
    x_title: str = "Horizontal axis"
    y_title: str = "Vertical axis"
    label: Axis | None = None
    links: list[tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=list)
    fronts: list[Front] = field(default_factory=list)

    def axis(self, name: str) -> Axis:
        """Return an axis by its name."""
        return next(axis for axis in (*self.x, *self.y) if axis.name == name)


def styles(names: Iterable[str]) -> dict[str, SeriesStyle]:
    """Return a style for each name, in order of the first appearance."""
    markers = list(MARKERS)
    return {
        name: SeriesStyle(COLORS[i % len(COLORS)], markers[i % len(markers)], DASHES[i % len(DASHES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def thin_styles(names: Iterable[str]) -> dict[str, SeriesStyle]:
    """Return the style of a thin dashed line for each name."""
    return {
        name: SeriesStyle(COLORS[-1 - i % len(COLORS)], "", THIN_DASHES[i // len(COLORS) % len(THIN_DASHES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def finite(values: dict[str, float | None]) -> dict[str, float]:
    """Return the finite values."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def distance_axis(name: str, label: str, distances: Iterable[float | None]) -> Axis:
    """Return the axis of a kernel distance: logarithmic down to the smallest relevant distance, and linear below."""
    positive = [value for value in distances if value is not None and 0 < value < math.inf]
    linear = max(NEAR, 10.0 ** math.floor(math.log10(min(positive)))) if positive else NEAR
    return Axis(name, label, about="lower is closer to real data", scale="asinh", linear=linear)
