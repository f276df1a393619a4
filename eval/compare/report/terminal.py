"""Tables of a comparison for the terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..published import beside
from ..records import ModelledRecord, Record
from ..results import Results
from ..targets import LABELS
from .tables import ORIGINALS, of_originals, published_tables
from .text import MISSING, decimals, number, problems

MOST = 8
"""Largest number of metrics of a table, so that its columns stay legible."""


def show(results: Results, console: Console) -> None:
    """Print a table per modality, the tables of targets, and all problems."""
    for modality in dict.fromkeys(r.modality for r in results.records):
        measured = results.measured(modality)
        tables = max(1, math.ceil(len(measured) / MOST))
        for i in range(tables):
            part = measured[i * len(measured) // tables : (i + 1) * len(measured) // tables]
            console.print(_table(results, modality, part, continued=i > 0))
        if modelled := _modelled(results.of(modality)):
            console.print(_budget(modelled), highlight=False, markup=False)
    for records in results.with_targets().values():
        console.print(_targets(records))
    for table in published_tables(results):
        console.print(_published(table))
    for line in beside.differences(results):
        console.print(line, markup=False, highlight=False)
    for reason in problems(results):
        console.print(reason, style="yellow", markup=False, highlight=False)


def _table(results: Results, modality: str, metrics: list[str], continued: bool) -> Table:
    """Return the table of some metrics. A `continued` one has no other columns than the coded rate."""
    records = [r for r in results.records if r.modality == modality]
    modelled = bool(_modelled(records)) and not continued
    count, protocol, unit = max(r.n for r in records), records[0].protocol, records[0].rate_unit
    title = f"{results.title}: {count} {modality} items, protocol {protocol}{', more metrics' if continued else ''}"
    table = Table(title=escape(title))
    table.add_column("codec", min_width=min(16, max(len(r.codec) for r in records)))
    rates = [f"coded {unit}", *([] if continued else ["nominal"])]
    rates += ["modelled", "modelled bits per token"] if modelled else []
    seconds = [] if continued else ["encode s", "decode s"]
    for heading in ["setting", *rates, *(results.metric(modality, name).title for name in metrics), *seconds]:
        table.add_column(heading, justify="right")
    for before, record in zip([None, *records], records, strict=False):
        if before and before.codec != record.codec:
            table.add_section()
        values = [number(record.metrics.get(name), decimals(name)) for name in metrics]
        cells = [*_rates(record, modelled)[: len(rates)], *values, *_seconds(record)[: len(seconds)]]
        empty = [MISSING] * len(cells)
        table.add_row(*map(escape, [record.codec, record.setting_text, *(cells if record.n else empty)]))
    known = of_originals(records, metrics)
    if set(known) - {MISSING}:
        table.add_section()
        table.add_row(ORIGINALS, *[MISSING] * (1 + len(rates)), *map(escape, known), *[MISSING] * len(seconds))
    return table


def _rates(record: Record, modelled: bool) -> list[str]:
    rates = [MISSING if (rate := record.rate(kind)) is None else f"{rate:.3f}" for kind in ("coded", "nominal")]
    return rates + ([number(record.rates["modelled"]), number(record.bits_per_token["modelled"])] if modelled else [])


def _seconds(record: Record) -> list[str]:
    return [f"{record.time.encode:.2f}", f"{record.time.decode:.2f}"]


def _modelled(records: list[Record]) -> list[ModelledRecord]:
    """Return the trainings of the modelled rates."""
    return [r.modelled for r in records if r.modelled and r.rate("modelled") is not None]


def _budget(trainings: list[ModelledRecord]) -> str:
    """Describe the transformers of the modelled rates."""

    def span(key: str) -> str:
        values = [getattr(training, key) for training in trainings]
        low, high = min(values), max(values)
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    return (
        f"modelled: a transformer with {span('parameters')} parameters, {span('parameters_of_embeddings')} of them in "
        f"embeddings (not charged), saw {span('tokens_seen')} tokens in {span('steps')} steps, from {span('items')} "
        f"items that are not evaluated ({trainings[0].where}); seed {trainings[0].seed}"
    )


def _published(table: dict[str, Any]) -> Table:
    """Tabulate the BD-rates against published curves in one metric."""
    shown = Table(title=escape(f"BD-rate against published curves, {table['label']}"))
    shown.add_column("curve")
    for codec in table["codecs"]:
        shown.add_column(escape(codec), justify="right")
    for curve, cells in table["grid"].items():
        percents = (cells[codec].percent for codec in table["codecs"])
        shown.add_row(escape(curve), *(MISSING if percent is None else f"{percent:+.1f} %" for percent in percents))
    return shown


def _targets(records: list[Record]) -> Table:
    """Tabulate the PSNR of fixed settings and targets at equal mean tokens."""
    table = Table(title=escape(f"{records[0].codec}: PSNR dB at equal mean tokens, mean / 10th percentile"))
    table.add_column("setting", justify="right")
    for name in records[0].targets:
        table.add_column(LABELS[name], justify="right")
    for record in records:
        pairs = [(target.psnr.mean, target.psnr.p10) for target in record.targets.values()]
        cells = [MISSING if None in pair else "{:.2f} / {:.2f}".format(*pair) for pair in pairs]
        table.add_row(escape(record.setting_text), *cells)
    return table
