"""The merged figures of several results files: a page, board.json, board.csv and figures."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenloom import environment, files

from ..charts import Chart
from ..compare.records import Record
from ..compare.report.fronts import on_front
from ..compare.report.text import problems
from ..compare.results import columns
from ..drawing import draw, save
from ..protocols import RATES
from ..serialize import to_csv, to_json, to_plain
from .loading import Loaded, load
from .merging import EQUAL, MergedSet, merge
from .page import charts, page
from .recommendation import DEFINITION, recommendations
from .records import Board, BoardRow, BoardRun, BoardSet
from .tables import learnability

TITLE = "Which codec, at which rate?"
COMMAND = 2000
"""Number of characters of a command that are shown."""
DEFINITIONS = {
    "Pareto front": "the settings that no other setting of the set beats: none has at most the coded rate and at least "
    "the quality, with one of them strictly better; by the means over the set, for each metric by itself",
    "which one to take": DEFINITION,
    "learnability": "the modelled rate, the bits under a small transformer that was trained on the codes of other "
    "items, as a share of the nominal rate, and of the entropy where it was measured; lower is easier to learn",
    "speed": "signal per second of wall time, one item at a time, container included, on the machine of its row; "
    "speeds of different machines do not compare",
    "merged": f"a codec that several files measure at one setting has equal figures in all, within {EQUAL:.1%} of "
    "the figure or of its spread over items; its times are those of the newest file",
    **{f"{kind} rate": text for kind, text in RATES.items()},
}


def make(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "board.html",
    *,
    title: str | None = None,
    figures: bool = True,
) -> Board:
    """Merge the results of many comparisons, of many machines and days, into one page that loads nothing else.

        board = make(["runs/photos", "runs/speech", "from-a-friend/results.json"], "board.html")

    Beside the page, files of the same stem hold the merged figures: board.json, and board.csv with a row for each
    codec, setting and set. The folder plots/ gets the curves of each set and metric as PNG and SVG.

    Args:
        sources: Folders of `tokenloom compare` or `tokenloom evaluate`, or their results.json.
        output: Path of the page, with the suffix .html. Files that exist are replaced.
        title: Title of the page.
        figures: Whether to draw the curves.

    Returns:
        The board, whose fields are the keys of board.json.

    Raises:
        FileNotFoundError: If a folder has no results.json, or there is no such file.
        ValueError: If no file is named, a file is damaged, `output` has another suffix or would replace a file that
            is merged, or the files do not fit together: another protocol or other items of a set, or two different
            figures of a codec at one setting. The message names the files.
    """
    outputs = output_files(output)
    loaded = load(sources)
    inputs = {Path(one.name).resolve() for one in loaded}
    if taken := next((path for path in outputs if path.resolve() in inputs), None):
        raise ValueError(f"{taken} is merged into the board; name another output than {output}")
    merged = merge(loaded)
    board = Board(
        title=title or TITLE,
        date=environment.now(),
        runs=[_run(one) for one in loaded],
        protocols={name: p for one in merged for name, p in one.results.protocols.items()},
        definitions=dict(DEFINITIONS),
        sets=[_set(one) for one in merged],
    )
    drawn = charts(board, merged)
    html, json_file, csv_file = outputs
    if figures:
        _draw(board, drawn, html)
    files.write_together(
        {
            json_file: to_json(_without_infinity(to_plain(board))),
            csv_file: to_csv([row for number, one in enumerate(merged) for row in _table(board, number, one)]),
            html: page(board, merged, drawn, html.stem),
        }
    )
    return board


def output_files(output: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """Return the files of a board: page, JSON and CSV. Raises ValueError unless the page has the suffix .html."""
    html = Path(output).expanduser()
    if html.suffix != ".html":
        raise ValueError(f"the output must have the suffix .html, got {html.name!r}")
    return html, html.with_suffix(".json"), html.with_suffix(".csv")


def _run(one: Loaded) -> BoardRun:
    results, about = one.results, one.results.environment
    broken = f"{results.skipped:,} broken items were left out" if results.skipped else ""
    measured = {r.codec for r in one.records()}
    empty = dict.fromkeys(r.codec for r in results.records if r.codec not in measured)
    return BoardRun(
        file=one.name,
        title=results.title,
        date=about.date,
        machine=about.machine,
        device=about.device,
        threads=about.threads,
        version=about.versions.get("tokenloom", ""),
        command=about.command[:COMMAND],
        remarks=[*filter(None, (results.status, broken)), *(f"{codec} coded no item" for codec in empty)],
    )


def _set(merged: MergedSet) -> BoardSet:
    results, modality, first = merged.results, merged.modality, merged.records[0]
    metrics = results.measured(modality)
    fronts = {name: on_front(results, merged.records, name) for name in metrics}
    return BoardSet(
        title=results.title,
        modality=modality,
        protocol=first.protocol,
        items=len(first.items),
        rate_unit=first.rate_unit,
        metrics=metrics,
        rows=[
            _row(record, run, [name for name in metrics if i in fronts[name]])
            for i, (record, run) in enumerate(zip(merged.records, merged.runs, strict=True))
        ],
        recommendations=recommendations(results, modality),
        problems=[*problems(results), *_budgets(merged.records)],
    )


def _row(record: Record, run: int, front: list[str]) -> BoardRow:
    time = record.time
    return BoardRow(
        codec=record.codec,
        learned=record.learned,
        parameters=record.parameters,
        license=record.license,
        setting_name=record.setting_name,
        setting=record.setting,
        run=run,
        n=record.n,
        failed=record.failed,
        rates=record.rates,
        bits_per_token=record.bits_per_token,
        metrics=record.metrics,
        front=front,
        learnability=learnability(record),
        encode_speed=time.encode_speed,
        decode_speed=time.decode_speed,
        speed_unit=time.speed_unit,
        device=time.device,
    )


def _budgets(records: Sequence[Record]) -> list[str]:
    """Return a line if the transformers of the modelled rates saw different numbers of tokens."""
    seen = {r.modelled.tokens_seen for r in records if r.modelled and r.modelled.tokens_seen}
    if len(seen) < 2:
        return []
    return [f"learnability: the transformers saw {min(seen):,} to {max(seen):,} tokens, so the shares do not compare"]


def _table(board: Board, number: int, merged: MergedSet) -> list[dict[str, Any]]:
    """Return the rows of a set in the CSV file: the columns of results.csv, learnability, the front and the run."""
    table = []
    for row, record in zip(board.sets[number].rows, merged.records, strict=True):
        run = board.runs[row.run]
        shares = {f"modelled_of_{kind}": row.learnability.get(kind) for kind in ("nominal", "entropy")}
        origin = {"front": " ".join(row.front), "file": run.file, "date": run.date, "machine": run.machine}
        table.append(columns(record) | shares | origin)
    return table


def _without_infinity(value: Any) -> Any:
    """Return plain values with "inf" in place of infinity, as in the rows of items of results.json."""
    if isinstance(value, dict):
        return {key: _without_infinity(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_infinity(v) for v in value]
    return "inf" if value == math.inf else value


def _draw(board: Board, drawn: dict[int, Chart], html: Path) -> None:
    """Draw every metric of every set over the coded rate to plots/."""
    slugs = [re.sub(r"[^A-Za-z0-9]+", "-", f"{one.title}-{one.modality}").strip("-")[-80:] for one in board.sets]
    for number, chart in drawn.items():
        slug = slugs[number] if slugs.count(slugs[number]) == 1 else f"{slugs[number]}-{number + 1}"
        for axis in chart.y:
            name = re.sub(r"[^A-Za-z0-9_]+", "-", axis.name)[:40]
            save(draw(chart, "coded", axis.name), html.parent / "plots" / f"{html.stem}-{slug}-{name}")
