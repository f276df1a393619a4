"""The figures on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import adaptive
from .results import Results, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DECIMALS = {"psnr": 2, "si_sdr": 2, "ssim": 4, "ms_ssim": 4}


def show(results: Results, console: Console) -> None:
    """One table a modality, one row a codec and setting, then what is absent and what failed."""
    from rich.markup import escape
    from rich.table import Table

    for modality in dict.fromkeys(r["modality"] for r in results.records):
        records = [r for r in results.records if r["modality"] == modality]
        metrics = measured(results, modality)
        about = results.protocols[records[0]["protocol"]]["metrics"]
        count = max(r["n"] for r in records)
        table = Table(title=escape(f"{results.title}: {count} {modality} items, protocol {records[0]['protocol']}"))
        table.add_column("codec")
        table.add_column("setting", justify="right")
        table.add_column(f"coded {records[0]['rate_unit']}", justify="right")
        table.add_column("nominal", justify="right")
        learned = [r["modelled"] for r in records if shown(r["rates"]["modelled"]) is not None]
        if learned:
            table.add_column("modelled", justify="right")
            table.add_column("modelled bits per token", justify="right")
        for name in metrics:
            table.add_column(f"{about[name]['label']} {about[name]['unit']}".strip(), justify="right")
        table.add_column("encode s", justify="right")
        table.add_column("decode s", justify="right")
        previous = records[0]["codec"]
        for record in records:
            if record["codec"] != previous:
                table.add_section()
                previous = record["codec"]
            table.add_row(*map(escape, _row(record, metrics, bool(learned))))
        console.print(table)
        if learned:
            console.print(_budget(learned), highlight=False, markup=False)
    for records in adaptive.tried(results).values():
        console.print(_targets(records))
    for reason in problems(results):
        console.print(reason, style="yellow", markup=False, highlight=False)


def _targets(records: list[dict[str, Any]]) -> Table:
    """PSNR, mean and 10th percentile, of every way to share out the tokens of a fixed setting."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{records[0]['codec']}: PSNR dB at equal mean tokens, mean / 10th percentile"))
    table.add_column("setting", justify="right")
    for name in records[0]["targets"]:
        table.add_column(adaptive.LABELS[name], justify="right")
    for record in records:
        cells = []
        for found in record["targets"].values():
            mean, tenth = (found["psnr"][key] for key in ("mean", "p10"))
            cells.append("–" if None in (mean, tenth) else f"{mean:.2f} / {tenth:.2f}")
        table.add_row(escape(f"{record['setting_name']} {record['setting']}"), *cells)
    return table


def measured(results: Results, modality: str) -> list[str]:
    """Metrics that have a figure for at least one record, in the order of the protocol."""
    records = results.of(modality)
    names = list(dict.fromkeys(name for r in records for name in r["metrics"]))
    return [name for name in names if any(shown(r["metrics"][name]) is not None for r in records)]


def problems(results: Results) -> list[str]:
    """One line for each thing that is absent, failed or was left out."""
    lines = [f"{_label(results, name)} is absent: {reason}" for name, reason in results.absent.items()]
    failed: dict[tuple[str, str], tuple[int, dict[str, None]]] = {}

    def count(what: str, reason: str, times: int, codec: str) -> None:
        before, codecs = failed.get((what, reason), (0, {}))
        failed[what, reason] = (before + times, {**codecs, codec: None})

    for record in results.records:
        if not record["n"] and not record["failed"]:
            lines.append(f"{record['codec']} had nothing to do: the data hold no {record['modality']}")
        if absent := (record["modelled"] or {}).get("absent"):
            lines.append(f"the modelled rate of {record['codec']} is absent: {absent}")
        for reason, times in record["reasons"].items():
            count("Failed", reason, times, record["codec"])
        for name, summary in record["metrics"].items():
            for reason, times in summary["reasons"].items():
                count(f"{_label(results, name)} has no value", reason, times, record["codec"])
    for (what, reason), (times, codecs) in failed.items():
        lines.append(f"{what} on {times} trial{'s' * (times != 1)} ({', '.join(codecs)}): {reason}")
    lines = list(dict.fromkeys(lines))
    if results.skipped:
        lines.append(f"{results.skipped} broken items of the data were left out")
    return lines


def _label(results: Results, metric: str) -> str:
    return next(p["metrics"][metric]["label"] for p in results.protocols.values() if metric in p["metrics"])


def number(summary: dict[str, Any] | None, decimals: int = 3) -> str:
    """A figure as people read it: mean, its 95 % interval, and how many items were perfect."""
    value = shown(summary)
    if value is None:
        return "–"
    if value == float("inf"):
        return "∞"
    text = f"{value:.{decimals}f}"
    if summary["ci95"] is not None:
        text += f" ±{summary['ci95']:.{decimals}f}"
    return text + (f" (+{summary['perfect']} ∞)" if summary["perfect"] else "")


def _budget(learned: list[dict[str, Any]]) -> str:
    """What the transformers behind the modelled rates were, and what they saw."""

    def span(key: str) -> str:
        low, high = (f(facts[key] for facts in learned) for f in (min, max))
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    lost = f", of which {span('parameters_of_embeddings')} are embeddings"
    return (
        f"modelled: a transformer of {span('parameters')} parameters{lost} (not charged) saw {span('tokens_seen')} "
        f"tokens in {span('steps')} steps, from {span('items')} items that are not evaluated ({learned[0]['where']}); "
        f"seed {learned[0]['seed']}"
    )


def _row(record: dict[str, Any], metrics: list[str], modelled: bool) -> list[str]:
    setting = "" if record["setting"] is None else f"{record['setting_name']} {record['setting']}"
    if not record["n"]:
        return [record["codec"], setting, *["–"] * (4 + 2 * modelled + len(metrics))]
    figures = [number(record["metrics"].get(name), DECIMALS.get(name, 3)) for name in metrics]
    rates = [f"{shown(record['rates'][kind]):.3f}" for kind in ("coded", "nominal")]
    rates += [number(record[key]["modelled"]) for key in ("rates", "bits_per_token")] if modelled else []
    seconds = [f"{record['time'][way]:.2f}" for way in ("encode", "decode")]
    return [record["codec"], setting, *rates, *figures, *seconds]
