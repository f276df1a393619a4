"""The report of a comparison: one HTML file that embeds the plots and exhibits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...charts import styles
from ...gallery.views import views
from ...render import Section, write_page
from ..published import beside
from ..results import Results
from . import plots
from .tables import bd_table, best_table, cost_table, published_tables, record_table, speed_table, target_rows
from .text import PLURALS, problems


def write(results: Results, sections: Sequence[Section] = (), path: Path | None = None) -> Path:
    """Render results whose exhibits are in their folder to `path`, by default report.html there, and return the path.

    `sections` are added before the definitions.
    """
    modalities = results.modalities()
    signals = [m for m in modalities if m != "text"]
    charts = plots.charts(results)
    metrics = {name: about for protocol in results.protocols.values() for name, about in protocol.metrics.items()}
    images, clips = views(results.folder, results.exhibits, metrics)
    return write_page(
        path or results.report,
        "compare.html",
        results=results,
        styles=styles(r.codec for r in results.records),
        curves={name: chart for name, chart in charts.items() if name.endswith("-curves")},
        perception={name: chart for name, chart in charts.items() if name.endswith("-perception")},
        counts=[f"{max(r.n for r in results.of(m))} {PLURALS[m]}" for m in modalities],
        images=images,
        clips=clips,
        tables=[record_table(results, m) for m in modalities],
        best=[table for m in signals if (table := best_table(results, m))],
        bd=[bd_table(results, m) for m in signals],
        published=published_tables(results),
        differences=beside.differences(results),
        speeds=[table for m in modalities if (table := speed_table(results, m))],
        costs={PLURALS[m]: rows for m in modalities if (rows := cost_table(results, m))},
        problems=problems(results),
        targets=[
            target_rows(codec, records) | {"id": f"targets-{i}", "chart": charts[f"targets-{i}"]}
            for i, (codec, records) in enumerate(results.with_targets().items())
        ],
        sections=sections,
    )
