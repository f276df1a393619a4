"""Evaluation of a diffusion decoder against the plain decoder and two controls, on the same codes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console

from tokenloom import devices, files, progress
from tokenloom.data import Source
from tokenloom.data.sources.source import at_least
from tokenloom.environment import Environment

from .. import filesets
from ..datasets import open_dataset, open_training
from ..serialize import to_csv, to_json
from . import claims, figure, references, report, speed, tables
from .per_setting import SettingMeasurement, total_work
from .records import DecoderResults, VariantRecord
from .references import References
from .setup import DecoderSetup


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
    device: str | torch.device = "auto",
    title: str = "",
    strict: bool = False,
) -> DecoderResults:
    """Measure distortion, realism, consistency and speed of every variant (see variants.py) over codec settings.

    Writes decoder.json, decoder.csv, exhibits/ and report.html. After Ctrl-C, the results hold the complete settings,
    and `interrupted` is True.

    Args:
        decoder: A folder, shipped name or hub id of a diffusion decoder.
        source: Test data.
        out: Folder of the results.
        training: Training data for the controls and the classifiers; None: these are absent.
        items: Largest number of test items, drawn with `seed`; None: all.
        train_items: Largest number of training items to decode.
        settings: Settings of the codec; None: its sweep.
        steps: Numbers of steps of the decoder, one per variant; from variants.FLOW_STEPS on with Euler's method.
        seed: Seed of all draws and all noise.
        device: auto, cpu, cuda, cuda:1 or mps, for codec and decoder. Metrics and classifiers run on the CPU.
        title: Name of the test data in the report.
        strict: Raise an error for a broken item instead of leaving it out.

    Raises:
        ValueError: If an argument is invalid, or the data have too few items.
        FileNotFoundError: If the decoder does not exist.
    """
    start = time.perf_counter()
    setup = DecoderSetup(decoder, settings, steps, seed, device)
    at_least("train_items", train_items, 2)
    results, real = setup.results(title or source.name), References()
    with filesets.replacing(filesets.DECODER, Path(out)) as folder:
        try:
            real = references.read(setup, source, training, items, train_items, strict)
            _measure(setup, real, results, folder)
        except KeyboardInterrupt:
            results.interrupted = True
        for records in (results.records, results.controls):
            records.sort(key=lambda record: -setup.settings.index(record.setting))
        results.absent, results.definitions = real.absent, real.definitions(setup)
        results.quarter, results.verdicts = claims.quarter(results), claims.claims(results)
        results.environment = Environment(
            seed=seed, seconds=round(time.perf_counter() - start, 1), device=devices.describe(setup.codec.device)
        )
        write(results, folder)
    return results


def _measure(setup: DecoderSetup, real: References, results: DecoderResults, out: Path) -> None:
    """Add the measurements to the results, setting by setting."""
    results.items, results.train_items, results.labels = len(real.test), len(real.train), real.label_accuracy()
    with progress.bar("figure and speed", total_work(setup, real), "items") as bar:
        results.exhibits = figure.make(setup, real.test, out)
        results.seconds = speed.measure(setup, real.test[0].signal)
        results.floor = real.floor(setup)
        for setting in setup.ordered_settings():
            records, controls = SettingMeasurement(setup, real, setting, bar).run()
            results.records += records
            results.controls += controls


def write(results: DecoderResults, out: Path) -> None:
    """Write decoder.json, decoder.csv and report.html."""
    rows = [_row(record) for record in results.records]
    files.write_together({out / "decoder.json": to_json(results), out / "decoder.csv": to_csv(rows)})
    report.write(results, out)


def _row(record: VariantRecord) -> dict[str, Any]:
    row = {key: getattr(record, key) for key in ("setting", "variant", "steps", "sampler", "n", "tokens", "rate")}
    for key, summary in (*record.distortion.items(), ("against_plain", record.against_plain)):
        row |= {key: summary.mean, f"{key}_ci95": summary.ci95}
    for space, kid in record.kid.items():
        name = f"kid_{space.replace(' ', '_').lower()}"
        row |= {name: kid.value, f"{name}_low": kid.low, f"{name}_high": kid.high}
    if record.accuracy:
        row |= {key: getattr(record.accuracy, key) for key in ("accuracy", "low", "high", "patches")}
    return row | ({"codes_back": record.same.mean} if record.same else {})


def main(cfg: Any) -> DecoderResults:
    """Run `tokenloom evaluate` for a diffusion decoder (conf/decoders.yaml)."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    test, training = open_dataset(plain["data"]), open_training(plain["training"])
    keys = ("items", "train_items", "settings", "steps", "seed", "device")
    results = evaluate(
        plain["model"], test.source, plain["out"], training=training.source if training else None, title=test.title,
        strict=test.strict or bool(training and training.strict), **{key: plain[key] for key in keys},
    )  # fmt: skip
    console = Console()
    tables.show(results, console)
    console.print(f"report: {Path(plain['out']) / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    return results
