"""A diffusion decoder against the plain one and two controls, on the same codes: `tokenloom evaluate NAME`."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenloom.data import Source
from tokenloom.data.sources.source import at_least

from ..datasets import open_dataset, open_training
from ..environment import Environment
from ..serialize import to_plain
from . import exhibits as decoder_exhibits
from . import report as decoder_report
from . import verdicts as decoder_verdicts
from .bench import Bench


def evaluate(
    decoder: str,
    source: Source,
    out: str | Path,
    *,
    training: Source | None = None,
    items: int | None = None,
    train_items: int = 256,
    settings: Sequence[Any] | None = None,
    steps: Sequence[int] = (1, 2, 4, 50),
    seed: int = 0,
    title: str = "",
    strict: bool = False,
) -> dict[str, Any]:
    """Distortion, realism, consistency and speed of every variant of realism.py, at a sweep of the codec's settings.

    decoder      a folder, shipped name or hub id of a diffusion decoder
    training     the training split: what controls are fitted on, and labels and judges learned from; None: these
                 figures are absent
    items        at most so many test items, drawn with `seed`; None: all
    train_items  so many training items at most are decoded
    settings     of the codec; None: its sweep
    steps        of the decoder, a variant each; from realism.FLOW on with the flow itself
    strict       refuse a broken item of the data instead of leaving it out

    Writes decoder.json, decoder.csv, exhibits/ and report.html to `out`. Ctrl-C leaves the settings done by then,
    `interrupted` is True. Raises ValueError or FileNotFoundError for what does not exist or means nothing.
    """
    begun = time.perf_counter()
    bench = Bench(decoder, settings, steps, seed)
    at_least("train_items", train_items, 2)
    found = bench.describe() | {"title": title or source.name, "train_items": 0, "records": [], "controls": [],
                                "floor": {}, "seconds": [], "exhibits": None, "interrupted": False}  # fmt: skip
    with _progress() as bar:
        try:
            bench.read(source, training, items, train_items, strict, bar)
            found |= {"items": len(bench.test), "train_items": len(bench.train), "labels": bench.labels_right()}
            bar.begin(bench.work())
            bar.tell("pictures and sounds")
            found["exhibits"] = decoder_exhibits.make(bench, Path(out))
            found["seconds"] = bench.seconds()
            found["floor"] = bench.floor()
            for setting in bench.order():
                records, strengths = bench.measure(setting, bar)
                found["records"] += records
                found["controls"] += strengths
        except KeyboardInterrupt:
            found["interrupted"] = True
    for key in ("records", "controls"):
        found[key].sort(key=lambda r: -bench.settings.index(r["setting"]))
    found["absent"], found["definitions"] = bench.absent, bench.definitions()
    found["quarter"], found["verdicts"] = decoder_verdicts.quarter(found), decoder_verdicts.verdicts(found)
    found["environment"] = to_plain(Environment(seed=seed, seconds=round(time.perf_counter() - begun, 1)))
    write(found, Path(out))
    return found


# -- what is written and shown -------------------------------------------------------------------


def write(found: dict[str, Any], out: Path) -> None:
    """decoder.json, decoder.csv and report.html in `out`, each replaced at once."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "decoder.json.part").write_text(text + "\n", encoding="utf-8")
    (out / "decoder.json.part").replace(out / "decoder.json")
    rows = [_flat(record) for record in found["records"]]
    with (out / "decoder.csv.part").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    (out / "decoder.csv.part").replace(out / "decoder.csv")
    decoder_report.write(out)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record as one row of decoder.csv."""
    row = {key: record[key] for key in ("setting", "variant", "steps", "sampler", "n", "tokens", "rate")}
    for key, summary in (*record["distortion"].items(), ("against_plain", record["against_plain"])):
        row |= {key: summary["mean"], f"{key}_ci95": summary["ci95"]}
    for space, kid in record["kid"].items():
        name = f"kid_{space.replace(' ', '_').lower()}"
        row |= {name: kid["value"], f"{name}_low": kid["low"], f"{name}_high": kid["high"]}
    if record["accuracy"]:
        row |= {key: record["accuracy"][key] for key in ("accuracy", "low", "high", "patches")}
    return row | ({"codes_back": record["same"]["mean"]} if record["same"] else {})


def main(cfg: Any) -> dict[str, Any]:
    """`tokenloom evaluate` of a diffusion decoder: conf/decoders.yaml."""
    from omegaconf import OmegaConf
    from rich.console import Console

    plain = OmegaConf.to_container(cfg, resolve=True)
    test, training = open_dataset(plain["data"]), open_training(plain["training"])
    keys = ("items", "train_items", "settings", "steps", "seed")
    found = evaluate(
        plain["model"], test.source, plain["out"], training=training.source if training else None, title=test.title,
        strict=test.strict or bool(training and training.strict), **{key: plain[key] for key in keys},
    )  # fmt: skip
    console = Console()
    decoder_report.show(found, console)
    console.print(f"report: {Path(plain['out']) / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    return found


class Bar:
    """A progress bar over the whole with the time left: `begin` says what is to do, `advance` what is done."""

    def __init__(self, progress: Any) -> None:
        self._progress, self._task = progress, progress.add_task("", total=None)

    def tell(self, text: str) -> None:
        self._progress.update(self._task, description=f"{text:<32.32}")

    def begin(self, total: float) -> None:
        self._progress.reset(self._task, total=total)

    def advance(self, amount: float) -> None:
        self._progress.advance(self._task, amount)

    def shares(self, text: str) -> Callable[[float], None]:
        """For what tells the share that is done."""
        self.begin(1.0)
        self.tell(text)
        return lambda share: self._progress.update(self._task, completed=share)


@contextmanager
def _progress() -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress)
