"""report.html: one file with everything, made from results.json and the plots and exhibits next to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...render import Section, inline_svg, write_page
from ..records import KINDS
from ..results import Results
from .curves import colors
from .media import clips, images
from .plots import perception_plot, plot_path, targets_plot
from .tables import bd_table, record_table, speed_table, target_rows
from .text import PLURALS, problems


def write(results: Results, sections: Sequence[Section] = ()) -> Path:
    """Render the report next to results.json.

    Args:
        results: Results that were written, with their plots and exhibits.
        sections: Sections that the caller adds before the last one.

    Returns:
        The path of the report.
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
        targets=[_targets(results, codec) for codec in results.with_targets()],
        static=[_first_plot(results, m) for m in signals],
        perception=_perception(results),
        sections=sections,
    )


def _chart(results: Results, modality: str) -> dict[str, Any]:
    """Return what the script draws for one modality: metrics, kinds of rate and points."""
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


def _first_plot(results: Results, modality: str) -> str:
    """Return the first plot as inline SVG, for readers without scripts."""
    paths = [plot_path(results, f"{modality}-{metric}") for metric in results.measured(modality)]
    return next((inline_svg(path) for path in paths if path.is_file()), "")


def _perception(results: Results) -> list[dict[str, str]]:
    """Return the plots of perception over distortion as inline SVG, with their titles."""
    paths = {modality: plot_path(results, perception_plot(modality)) for modality in ("image", "audio")}
    return [{"title": PLURALS[m], "plot": inline_svg(path)} for m, path in paths.items() if path.is_file()]


def _targets(results: Results, codec: str) -> dict[str, Any]:
    """Return table and plot of a codec that was measured with targets."""
    path = plot_path(results, targets_plot(codec))
    return target_rows(codec, results.with_targets()[codec]) | {"plot": inline_svg(path) if path.is_file() else ""}
