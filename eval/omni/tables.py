"""The figures of a multimodal model on a terminal, and as the words and numbers that its report shows, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show(found: dict[str, Any], console: Console) -> None:
    """Both tables, the table of bits, what is absent, and where the report is."""
    from rich.markup import escape
    from rich.table import Table

    some = "" if found["items"] is None else f", at most {found['items']} trials of each"
    for trained, title in ((False, "on data never trained on"), (True, "on trained items, and cost")):
        records = [r for r in found["records"] if r["trained"] is trained]
        if not records:
            continue
        table = Table(title=escape(f"{found['model']} {title}{some}"))
        for heading in ("figure", "goal", "reached", "95 % interval", "n", "codec's ceiling", "besides"):
            table.add_column(heading, justify="left" if heading in ("figure", "besides") else "right",
                             overflow="fold")  # fmt: skip
        for r in records:
            style = "green" if r["reached"] else "red"
            cells = [shown(r), interval(r), str(r["n"]), shown(r, "ceiling"), told(r["detail"])]
            table.add_row(escape(r["title"]), escape(r["goal"]), f"[{style}]{cells[0]}[/]", *map(escape, cells[1:]))
        console.print(table)
    if found["bits"]:
        console.print(_bits(found["bits"]))
    for what, reason in found["absent"].items():
        console.print(f"{what} is absent: {reason}", style="yellow", markup=False, highlight=False)
    if found["interrupted"]:
        console.print("interrupted: the figures are those found by then")


def _bits(bits: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(
        title="where the bits of one sequence are: a caption, a picture, a spoken digit; test data\n"
        "bits a token: nominal, order-0 entropy, under the transformer alone and given the item's other segment"
    )
    header, *rows = lines(bits)
    for heading in header:
        table.add_column(heading, justify="left" if heading == "channel" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def shown(record: dict[str, Any], key: str = "value") -> str:
    """A record's figure as people read it."""
    value = record[key]
    if value is None:
        return "–"
    return f"{value:.2f} s" if record["unit"] == "s" else f"{100 * value:.1f} %"


def interval(record: dict[str, Any]) -> str:
    return "" if record["interval"] is None else "{:.1f} – {:.1f} %".format(*(100 * end for end in record["interval"]))


def told(detail: dict[str, Any]) -> str:
    """What else was counted, on one line."""
    parts = []
    for key, value in detail.items():
        if isinstance(value, float):
            text = f"{100 * value:.1f} %"
        elif isinstance(value, dict):
            inner = (f"{k} {100 * v:.0f} %" if isinstance(v, float) else f"{k} ({v})" for k, v in value.items())
            text = ", ".join(inner) or "none"
        else:
            text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
        parts.append(f"{key}: {text}")
    return "; ".join(parts)


def lines(table: dict[str, Any]) -> list[list[str]]:
    """The table as text: headings, then one line a channel."""
    headings = [
        "channel", "ids", "tokens / item", "nominal", "entropy", "alone", "given", "bits / item", "rate", "of tokens",
        "of bits", "of compute", "codec GFLOP",
    ]  # fmt: skip
    return [headings, *map(_line, table["rows"])]


def _line(row: dict[str, Any]) -> list[str]:
    bits, item, part = row["bits_per_token"], row["bits_per_item"], row["share"]
    return [
        row["channel"],
        f"{row['vocabulary']:,}" + (f" in {row['quantizers']}" if row["quantizers"] > 1 else ""),
        f"{row['tokens']:.1f}",
        *("–" if bits[kind] is None else f"{bits[kind]:.2f}" for kind in ("nominal", "entropy", "alone", "given")),
        f"{item['given']:.0f} of {item['nominal']:.0f}",
        f"{row['rate']['given']:.3g} {row['unit']}",
        *(f"{100 * part[kind]:.1f} %" for kind in ("tokens", "bits", "compute")),
        f"{row['codec_flops'] / 1e9:.2f}",
    ]
