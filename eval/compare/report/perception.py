"""Plot of perception over distortion."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from ...drawing import GRAY, MARKERS, style
from ..records import Record
from ..results import Results
from .curves import colors, scale_distance

DISTORTION = {"image": "psnr", "audio": "mel"}
"""Metric on the horizontal axis; the kernel distance is on the vertical one."""
LABELED = 24
"""Most points that all have their rate written next to them; with more points only the ends of a curve have."""

Place = tuple[float, float, float]
"""Distortion, KID and coded rate."""


def draw_perception(results: Results, modality: str) -> Figure | None:
    """Draw KID (lower is better) over distortion (right is better), with the rate of each point.

    There is one curve per codec. A dotted line leads from each point of a codec to that of a diffusion decoder of the
    same codes.

    Returns:
        None if one of the two metrics was not measured.
    """
    records = results.of(modality)
    curves = {codec: places for codec, places in _places(records, DISTORTION[modality]).items() if places}
    if not curves:
        return None
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot()
    palette = colors(results)
    every = [place for places in curves.values() for place in places.values()]
    for i, (codec, places) in enumerate(curves.items()):
        x, y, rates = zip(*places.values(), strict=True)
        axes.plot(x, y, color=palette[codec], marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.4, label=codec)
        for at in range(len(x)) if len(every) <= LABELED else {0, len(x) - 1}:
            axes.annotate(f"{rates[at]:.2g}", (x[at], y[at]), (3, 4), textcoords="offset points", fontsize=7)
        for setting, (x0, y0, _) in curves.get(codec.rpartition("+")[0], {}).items():
            if setting in places:
                x1, y1, _ = places[setting]
                axes.plot((x0, x1), (y0, y1), color=GRAY, lw=0.8, ls=":", zorder=1)
    scale_distance(axes, [y for _, y, _ in every])
    about = results.metric(modality, DISTORTION[modality])
    if about.better == "lower":
        axes.invert_xaxis()
    better = "higher is better" if about.better == "higher" else "axis reversed: lower is better"
    axes.set_xlabel(f"{about.label}{f' / {about.unit}' if about.unit else ''} ({better})")
    axes.set_ylabel(f"{results.metric(modality, 'kid').label} (lower is closer to real data)")
    style(axes)
    axes.set_title(f"At each point: {records[0].rate_unit}, coded. Best is at the lower right.", fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _places(records: list[Record], distortion: str) -> dict[str, dict[Any, Place]]:
    """Return codec → setting → place, in order of the rate, for settings whose values are all finite."""
    found: dict[str, dict[Any, Place]] = {r.codec: {} for r in records}
    for r in sorted(records, key=lambda r: r.rate()):
        place = (r.value(distortion), r.value("kid"), r.rate())
        if all(value is not None and math.isfinite(value) for value in place):
            found[r.codec][r.setting] = place
    return found
