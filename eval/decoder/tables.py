"""Tables of the evaluation of a diffusion decoder, for the page and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..classifiers.realfake import ClassifierAccuracy
from ..metric import Summary
from .records import ControlRecord, DecoderResults, DistanceRecord, RealismRecord, SpeedRecord, VariantRecord
from .variants import PLAIN, diffusion, heading

MISSING = "–"
ACCURACY = "real or decoded"
"""Heading of the accuracy of the classifier."""


@dataclass
class VariantRow:
    """Row of a variant; `usual` marks the number of steps that the claims are about."""

    name: str
    cells: list[str]
    usual: bool


def realism_header(results: DecoderResults) -> list[str]:
    """Return the headings of the measures of realism."""
    return [*(f"KID, {space}" for space in results.spaces), ACCURACY]


def header(results: DecoderResults) -> list[str]:
    """Return the headings of the columns of `setting_tables`."""
    distortions = ["PSNR / dB"] if results.modality == "image" else ["mel PSNR / dB", "mel distance"]
    return ["variant", *distortions, "against plain / dB", *realism_header(results), "codes recovered"]


def setting_tables(results: DecoderResults) -> dict[str, list[VariantRow]]:
    """Return title → rows of the table of each setting, from high to low."""
    tables: dict[str, list[VariantRow]] = {}
    for record in results.records:
        cells = [_mean(summary) for summary in record.distortion.values()]
        cells.append(MISSING if record.variant == PLAIN else _mean(record.against_plain, "+.2f"))
        cells += realism_cells(results, record)
        cells.append(_percent(record.same and record.same.mean))
        row = VariantRow(heading(record.variant), cells, record.variant == diffusion(results.usual))
        tables.setdefault(_title(results, record), []).append(row)
    return tables


def _title(results: DecoderResults, record: VariantRecord) -> str:
    setting = "" if record.setting is None else f"{results.setting_name} {record.setting}: "
    item = "image" if results.modality == "image" else "sound"
    return f"{setting}{record.tokens:.4g} tokens per {item}, {record.rate:.3g} {results.rate_unit} nominal"


def realism_cells(results: DecoderResults, record: RealismRecord) -> list[str]:
    """Return the cells below `realism_header`."""
    return [*(distance_cell(record.kid.get(space)) for space in results.spaces), _accuracy(record.accuracy)]


def _mean(summary: Summary | None, form: str = ".2f") -> str:
    if not summary or summary.mean is None:
        return "∞" if summary and summary.perfect else MISSING
    spread = "" if summary.ci95 is None else f" ± {summary.ci95:.2f}"
    return f"{summary.mean:{form}}{spread}".replace("-", "−")


def distance_cell(kid: DistanceRecord | None) -> str:
    """Return a KID with its interval."""
    return MISSING if kid is None else f"{kid.value:.3g} ({kid.low:.3g} to {kid.high:.3g})".replace("-", "−")


def _accuracy(value: ClassifierAccuracy | None) -> str:
    if value is None:
        return MISSING
    return f"{100 * value.accuracy:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f} %"


def control_cells(results: DecoderResults, control: ControlRecord) -> list[str]:
    """Return the row of a control: setting, name, strength, energies, loss and limit."""
    setting = MISSING if control.setting is None else f"{results.setting_name} {control.setting}"
    limit = "loss" if control.capped else "energy"
    return [setting, control.control, f"{control.value:.4g}", _percent(control.plain), _percent(control.energy),
            f"{control.loss:.2f} dB".replace("-", "−"), limit]  # fmt: skip


def quarter_cells(results: DecoderResults) -> list[list[str]]:
    """Return the rows of the comparison of a quarter of the tokens with all of them."""
    rows = results.quarter.rows if results.quarter else []
    return [[f"{heading(row.variant)}, {results.setting_name} {row.setting}", f"{row.tokens:.4g}",
             *realism_cells(results, row)] for row in rows]  # fmt: skip


def speed_title(row: SpeedRecord) -> str:
    """Return the name of the decoded item, with its size."""
    return row.of if row.of == row.size else f"{row.of} ({row.size})"


def speed_cells(row: SpeedRecord) -> dict[str, float]:
    """Return heading → seconds of each variant."""
    return {heading(PLAIN): row.plain, **{heading(diffusion(int(n))): s for n, s in row.steps.items()}}


def show(results: DecoderResults, console: Console) -> None:
    """Print all tables, the claims, and the missing measurements."""
    for title, rows in setting_tables(results).items():
        table = Table(title=escape(f"{results.decoder}, {title}"))
        for name in header(results):
            table.add_column(name, justify="left" if name == "variant" else "right", overflow="fold")
        for row in rows:
            table.add_row(escape(row.name), *row.cells, style="bold" if row.usual else None)
        console.print(table)
    words = {True: "[green]reached[/]", False: "[red]not reached[/]", None: "[yellow]unknown[/]"}
    for claim in results.verdicts:
        text = escape(f"{claim.title}, {claim.goal}: {claim.found}")
        console.print(f"{words[claim.reached]} {text}", highlight=False, soft_wrap=True)
    for name, reason in results.absent.items():
        console.print(f"{name} is absent: {reason}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if results.interrupted:
        console.print("interrupted: complete settings only")
