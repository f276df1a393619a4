"""The page of a board: one HTML file that loads nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..charts import Chart, SeriesStyle, styles
from ..compare.report import plots
from ..compare.report.text import PLURALS
from ..render import render
from . import tables
from .merging import MergedSet
from .records import Board

if TYPE_CHECKING:
    from markupsafe import Markup


def palette(board: Board) -> dict[str, SeriesStyle]:
    """Return a style for each codec, the same in every chart."""
    return styles(row.codec for one in board.sets for row in one.rows)


def charts(board: Board, merged: Sequence[MergedSet]) -> dict[int, Chart]:
    """Return number of a set → its chart of every metric over every kind of rate; none for text, which is exact."""
    colors, found = palette(board), {}
    for number, one in enumerate(merged):
        if one.modality == "text" or not board.sets[number].metrics:
            continue
        chart = plots.curves(one.results, one.modality)
        chart.title = f"rate and quality of {board.sets[number].title}, {PLURALS[one.modality]}"
        for series in chart.series:
            series.style = colors[series.name]
        found[number] = chart
    return found


def page(board: Board, merged: Sequence[MergedSet], drawn: dict[int, Chart], stem: str) -> Markup:
    """Render the page. `stem` is the name of the files beside it, without suffix."""
    sets = []
    for number, (one, source) in enumerate(zip(board.sets, merged, strict=True)):
        metrics = board.protocols[one.protocol].metrics
        sets.append(
            {
                "id": f"set-{number}",
                "of": one,
                "kind": PLURALS[one.modality],
                "chart": drawn.get(number),
                "take": tables.take_table(one.recommendations, metrics, one.rate_unit),
                "table": tables.set_table(one, source, board.runs),
            }
        )
    return render("board.html", board=board, sets=sets, styles=palette(board), stem=stem, unstated=tables.UNSTATED)
