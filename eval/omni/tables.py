"""Tables of the evaluation of a multimodal model, for the report and the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .records import BitsTable, ChannelBits, OmniRecord, OmniResults

MISSING = "–"
TITLES = {False: "on data never trained on", True: "on trained items, and cost"}
"""`trained` of the records → title of their table."""
LABELS = {
    "takes of each word": "clips per word",
    "recogniser on real test clips": "classifier accuracy on real test clips",
    "recogniser": "speech classifier",
    "left as it was": "unchanged picture",
    "wrong, the first": "first errors",
    "of captions with one tone": "captions with one tone",
}
"""Keys of the files → different names in tables."""


def show(results: OmniResults, console: Console) -> None:
    """Print both tables, the table of bits, and the missing measurements."""
    limit = "" if results.items is None else f", at most {results.items} trials each"
    for trained, title in TITLES.items():
        records = [r for r in results.records if r.trained is trained]
        if records:
            console.print(_table(f"{results.model} {title}{limit}", records))
    if results.bits:
        console.print(_bits(results.bits))
    for name, reason in results.absent.items():
        console.print(f"{name} is absent: {reason}", style="yellow", markup=False, highlight=False)
    if results.interrupted:
        console.print("interrupted: complete measurements only")


def _table(title: str, records: Iterable[OmniRecord]) -> Table:
    table = Table(title=escape(title))
    for heading in ("measurement", "goal", "result", "95 % interval", "n", "codec's ceiling", "details"):
        justify = "left" if heading in ("measurement", "details") else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for r in records:
        style = "green" if r.reached else "red"
        cells = [interval(r), str(r.n), ceiling(r), details(r.detail)]
        table.add_row(escape(r.title), escape(r.goal), f"[{style}]{value(r)}[/]", *map(escape, cells))
    return table


def _bits(bits: BitsTable) -> Table:
    table = Table(
        title="bits of one sequence of a caption, a picture and a spoken digit; test data\n"
        "bits per token: nominal, order-0 entropy, transformer alone, transformer given the item's other segment"
    )
    header, *rows = lines(bits)
    for heading in header:
        table.add_column(heading, justify="left" if heading == "channel" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def value(record: OmniRecord) -> str:
    """Return the value of a record with its unit."""
    return f"{record.value:.2f} s" if record.unit == "s" else f"{100 * record.value:.1f} %"


def ceiling(record: OmniRecord) -> str:
    """Return the ceiling of a record, or a dash."""
    return MISSING if record.ceiling is None else f"{100 * record.ceiling:.1f} %"


def interval(record: OmniRecord) -> str:
    """Return the interval of a record; "" without one."""
    return "{:.1f} – {:.1f} %".format(*(100 * end for end in record.interval)) if record.interval else ""


def details(detail: dict[str, Any]) -> str:
    """Return the detail of a record on one line."""
    parts = []
    for key, entry in detail.items():
        if isinstance(entry, float):
            text = f"{100 * entry:.1f} %"
        elif isinstance(entry, dict):
            inner = (f"{k} {100 * v:.0f} %" if isinstance(v, float) else f"{k} ({v})" for k, v in entry.items())
            text = ", ".join(inner) or "none"
        else:
            text = ", ".join(map(str, entry)) or "none" if isinstance(entry, list) else str(entry)
        parts.append(f"{LABELS.get(key, key)}: {text}")
    return "; ".join(parts)


def lines(table: BitsTable) -> list[list[str]]:
    """Return the table of bits as text: headings, then a row per channel."""
    headings = [
        "channel", "ids", "tokens / item", "nominal", "entropy", "alone", "given", "bits / item", "rate", "of tokens",
        "of bits", "of compute", "codec GFLOP",
    ]  # fmt: skip
    return [headings, *map(_line, table.rows)]


def _line(row: ChannelBits) -> list[str]:
    bits, item, part = row.bits_per_token, row.bits_per_item, row.share
    shares = (part.tokens, part.bits, part.compute) if part else ()
    return [
        row.channel,
        f"{row.vocabulary:,}" + (f" in {row.quantizers}" if row.quantizers > 1 else ""),
        f"{row.tokens:.1f}",
        *(MISSING if b is None else f"{b:.2f}" for b in (bits.nominal, bits.entropy, bits.alone, bits.given)),
        f"{item.given:.0f} of {item.nominal:.0f}",
        f"{row.rate.given:.3g} {row.unit}",
        *(f"{100 * s:.1f} %" for s in shares),
        f"{row.codec_flops / 1e9:.2f}",
    ]
