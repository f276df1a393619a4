"""One model for text, images and sound, measured: `tokenloom evaluate omni-small packs=FOLDER`."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenloom.codecs import checkpoint
from tokenloom.data.sources.source import at_least

from ..environment import Environment
from ..serialize import to_plain
from . import abilities, bits_table, cost
from . import report as omni_report
from . import tables as omni_tables
from .abilities import ROWS, Row
from .bench import Bench
from .packs import Packs
from .retrieval import wilson

COSTS: dict[str, Callable[[Bench], list[dict[str, Any]]]] = {
    "variable_length": cost.variable_length,
    "seconds": cost.seconds,
}
TABLE, SAMPLES = "bits", "samples"
CHOICES = (SAMPLES, *(row.key for row in ROWS), *COSTS, TABLE)
SHIPPED = "evaluation.json"
DEFINITIONS = {
    "nearest": "least mean squared error of 8-bit RGB among all pictures of emoji64-train and emoji64-test; identical "
    "pictures count as right",
    "ceiling": "the share that is right when the codec's own reconstruction stands in for the model's answer",
    "recogniser": "a small network over log-mel spectrograms, trained on the clips of spoken_digits-train as they are, "
    "on nothing that a codec or this model made",
    "interval": "95 %, Wilson (1927), over trials",
    "sampling": "pictures and sound with the model's own settings, one seed a trial; text at temperature 0",
}


def evaluate(
    model: str,
    packs: str | Path | None,
    out: str | Path,
    *,
    items: int | None = None,
    rows: Sequence[str] | None = None,
    seed: int = 0,
    sampling: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Every figure of both tables, and the table of bits, of a trained model.

    model     a folder, shipped name or hub id, as `models.load` takes it
    packs     the folder of emoji64-{train,test}.tar and spoken_digits-{train,test}.tar; without one, and for
              packs that are not in it, a figure is absent, with the reason
    items     at most so many trials of a figure, drawn with `seed`; None: all
    rows      of CHOICES; None: all
    sampling  temperature, top_k, top_p, guidance, best_of of pictures and sound, in place of the model's own

    Writes omni.json, omni.csv, exhibits/ and report.html to `out`; a report of `compare` that is there gets a
    section more. Ctrl-C leaves the figures found so far, `interrupted` is True.
    Raises ValueError or FileNotFoundError for a model, folder, count or row that does not exist.
    """
    chosen = _choose(rows)
    if items is not None:
        at_least("items", items, 1)
    found: dict[str, Any] = {"model": str(model), "items": items, "records": [], "bits": None, "absent": {}}
    start = time.perf_counter()
    with Bench(model, Packs(packs), Path(out), most=items, seed=seed, sampling=sampling or {}) as bench:
        found["interrupted"] = _gather(bench, chosen, found)
        found["exhibits"] = bench.exhibits
        found["sampling"] = {**bench.omni.defaults, **bench.sampling}
        found["weights"] = sum(p.numel() for p in bench.omni.transformer.parameters())
        found["shipped"] = _shipped(checkpoint.find(str(model)))
    found["environment"] = to_plain(Environment(seed=seed, seconds=round(time.perf_counter() - start, 1)))
    found["definitions"] = DEFINITIONS
    write(found, Path(out))
    return found


def _shipped(folder: Path) -> dict[str, Any] | None:
    """The figures that came with the model: an omni.json of all packs, as evaluation.json in its folder."""
    path = folder / SHIPPED
    if not path.is_file():
        return None
    return {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k not in ("exhibits", "shipped")}


def _choose(rows: Sequence[str] | None) -> list[str]:
    for row in rows or ():
        if row not in CHOICES:
            raise ValueError(f"row {row!r} is none of {', '.join(CHOICES)}")
    return [row for row in CHOICES if rows is None or row in rows]


def _gather(bench: Bench, chosen: list[str], found: dict[str, Any]) -> bool:
    """Fill in what each chosen row gives; whether it was interrupted."""
    figures = {row.key: row for row in ROWS}
    try:
        for key in chosen:
            start = time.perf_counter()
            try:
                if key == TABLE:
                    found["bits"] = bits_table.measure(bench)
                if key == SAMPLES:
                    abilities.samples(bench)
                if key in (TABLE, SAMPLES):
                    continue
                records = [_record(figures[key], bench)] if key in figures else COSTS[key](bench)
            except ValueError as reason:  # a pack that is not there, a prompt beyond the context: the others go on
                found["absent"][figures[key].title if key in figures else key.replace("_", " ")] = str(reason)
                continue
            taken = round(time.perf_counter() - start, 1)
            trained = key in COSTS or figures[key].trained
            blank = {"interval": None, "ceiling": None, "detail": {}}
            found["records"] += [{**blank, **r, "trained": trained, "row_seconds": taken} for r in records]
    except KeyboardInterrupt:
        return True
    return False


def _record(row: Row, bench: Bench) -> dict[str, Any]:
    figure = row.run(bench)
    right, n = sum(figure.hits), len(figure.hits)
    value = abilities.share(figure.hits)
    return {
        "key": row.key,
        "title": row.title,
        "goal": f"≥ {row.goal:.0%}".replace("%", " %") + (f"; {row.besides}" if row.besides else ""),
        "value": value,
        "unit": "share",
        "n": n,
        "right": right,
        "interval": wilson(right, n),
        "ceiling": figure.ceiling,
        "reached": value >= row.goal and figure.besides,
        "detail": figure.detail,
    }


# -- what is written and shown -------------------------------------------------------------------


def write(found: dict[str, Any], out: Path) -> None:
    """omni.json, omni.csv and report.html in `out`, each replaced at once."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "omni.json.part").write_text(text + "\n", encoding="utf-8")
    (out / "omni.json.part").replace(out / "omni.json")
    keys = ("key", "title", "goal", "value", "unit", "n", "low", "high", "ceiling", "reached", "trained", "row_seconds")
    with (out / "omni.csv.part").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys, restval="", extrasaction="ignore")
        writer.writeheader()
        for record in found["records"]:
            low, high = record["interval"] or ("", "")
            writer.writerow({**record, "low": low, "high": high})
    (out / "omni.csv.part").replace(out / "omni.csv")
    omni_report.write(out)


def main(cfg: Any) -> dict[str, Any]:
    """`tokenloom evaluate` of a model: conf/abilities.yaml."""
    from omegaconf import OmegaConf
    from rich.console import Console

    plain = OmegaConf.to_container(cfg, resolve=True)
    keys = ("items", "rows", "seed", "sampling")
    found = evaluate(plain["model"], plain["packs"], plain["out"], **{key: plain[key] for key in keys})
    console = Console()
    omni_tables.show(found, console)
    console.print(f"report: {Path(plain['out']) / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    return found
