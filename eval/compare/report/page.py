"""The report of a comparison: one HTML file that embeds the plots and exhibits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...render import Section, inline_svg, write_page
from ..records import KINDS
from ..results import Results
from .media import clips, images
from .plots import colors, perception_plot, plot_path, targets_plot
from .tables import bd_table, record_table, speed_table, target_rows
from .text import PLURALS, problems


def write(results: Results, sections: Sequence[Section] = ()) -> Path:
    """Render report.html from results whose plots and exhibits are in their folder, and return its path.

    `sections` are added before the definitions.
    """
    modalities = results.modalities()
    signals = [m for m in modalities if m != "text"]
    return write_page(
        results.report,
        "compare.html",
        results=results,
        data={"charts": {m: _chart(results, m) for m in signals}, "colors": colors(results)},
        colors=colors(results),
        counts=[f"{max(r.n for r in results.of(m))} {PLURALS[m]}" for m in modalities],
        images=images(results),
        clips=clips(results),
        tables=[record_table(results, m) for m in modalities],
        bd=[bd_table(results, m) for m in signals],
        speeds=[table for m in modalities if (table := speed_table(results, m))],
        problems=problems(results),
        targets=[
            target_rows(codec, records) | {"plot": _plot(results, targets_plot(codec))}
            for codec, records in results.with_targets().items()
        ],
        static=[_plot(results, f"{m}-{metric}") for m in signals for metric in results.measured(m)[:1]],
        perception=[(PLURALS[m], plot) for m in ("image", "audio") if (plot := _plot(results, perception_plot(m)))],
        sections=sections,
    )


def _chart(results: Results, modality: str) -> dict[str, Any]:
    """Return the data of the script for one modality: metrics, kinds of rate and points."""
    records, names = results.of(modality), results.measured(modality)
    kinds = [kind for kind in KINDS if any(r.rate(kind) for r in records)]
    described = [(name, results.metric(modality, name)) for name in names]
    points = [
        {
            "codec": r.codec,
            "setting": r.setting_text,
            "rates": {kind: r.rate(kind) for kind in kinds},
            "perfect": [name for name in names if r.value(name) == math.inf],
            "values": {name: v if (v := r.value(name)) is not None and math.isfinite(v) else None for name in names},
            "ci": {name: r.metrics[name].ci95 if name in r.metrics else None for name in names},
            "n": r.n,
        }
        for r in records
    ]
    metrics = [{"name": name, "label": m.label, "unit": m.unit, "better": m.better} for name, m in described]
    return {"unit": records[0].rate_unit, "kinds": kinds, "metrics": metrics, "points": points}


def _plot(results: Results, name: str) -> str:
    """Return a plot as inline SVG; "" if it was not drawn."""
    path = plot_path(results, name)
    return inline_svg(path) if path.is_file() else ""
