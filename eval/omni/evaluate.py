"""Evaluation of a multimodal model on the packs of omni-small."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console

from tokenloom import devices, errors, files
from tokenloom.codecs import checkpoint
from tokenloom.data.sources.source import at_least
from tokenloom.environment import Environment

from .. import filesets
from ..serialize import from_plain, to_csv, to_json
from . import abilities, bits_table, cost, report, shown, tables
from .abilities import ABILITIES
from .packs import PackFolder
from .records import OmniMeasurements, OmniRecord, OmniResults
from .session import OmniSession

COSTS: dict[str, Callable[[OmniSession], list[OmniRecord]]] = {
    "variable_length": cost.variable_length,
    "seconds": cost.seconds,
    "shown": shown.measure,
}
TABLE, SAMPLES = "bits", "samples"
CHOICES = (SAMPLES, *(ability.key for ability in ABILITIES), *COSTS, TABLE)
SHIPPED = "evaluation.json"
COLUMNS = (
    "key", "title", "goal", "value", "unit", "n", "low", "high", "ceiling", "reached", "trained", "row_seconds",
)  # fmt: skip
"""Columns of omni.csv."""
DEFINITIONS = {
    "nearest": "smallest mean squared error of 8-bit RGB among all pictures of emoji64-train and emoji64-test; "
    "identical pictures count as right",
    "ceiling": "share of right answers if the codec's reconstruction replaces the model's answer",
    "recogniser": "a small classifier of log-mel spectrograms, trained on the real clips of spoken_digits-train only",
    "interval": "95 %, Wilson (1927), over trials",
    "sampling": "pictures and sound with the model's own settings, one seed per trial; text at temperature 0",
}


def evaluate(
    model: str,
    packs: str | Path | None,
    out: str | Path,
    *,
    items: int | None = None,
    rows: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    sampling: dict[str, Any] | None = None,
) -> OmniResults:
    """Measure the abilities, the cost and the bits of a trained model.

    Writes omni.json, omni.csv, exhibits/ and report.html. In the folder of a comparison, the report is a section of the
    comparison's. After Ctrl-C, the results hold the complete measurements, and `interrupted` is True.

    Args:
        model: A folder, shipped name or hub id.
        packs: Folder of emoji64-{train,test}.tar and spoken_digits-{train,test}.tar. Measurements that need a missing
            pack are absent, with the reason.
        out: Folder of the results.
        items: Largest number of trials of an ability, drawn with `seed`; None: all.
        rows: Members of CHOICES; None: all.
        seed: Seed of all draws and all sampling.
        device: auto, cpu, cuda, cuda:1 or mps, for the model. Scores and classifiers run on the CPU.
        sampling: temperature, top_k, top_p, guidance, best_of for images and sound; None: the model's defaults.

    Raises:
        ValueError: If an argument is invalid.
        FileNotFoundError: If the model or the folder of packs does not exist.
    """
    chosen = _choose(rows)
    if items is not None:
        at_least("items", items, 1)
    start = time.perf_counter()
    with filesets.replacing(filesets.OMNI, Path(out)) as folder:
        session = OmniSession(
            model, PackFolder(packs), folder, limit=items, seed=seed, device=device, sampling=sampling
        )
        results = _evaluate(session, chosen)
        results.environment = Environment(
            seed=seed, seconds=round(time.perf_counter() - start, 1), device=devices.describe(session.omni.device)
        )
        write(results, folder, Path(out))
    return results


def _evaluate(session: OmniSession, chosen: Sequence[str]) -> OmniResults:
    """Return the results of some of CHOICES."""
    results = OmniResults(
        model=session.model,
        items=session.limit,
        sampling={**session.omni.defaults, **session.sampling},
        weights=sum(p.numel() for p in session.omni.transformer.parameters()),
        shipped=_shipped(checkpoint.find(session.model, "omni")),
        exhibits=session.exhibits,
        definitions=DEFINITIONS,
    )
    try:
        for key in chosen:
            _measure(session, key, results)
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _choose(rows: Sequence[str] | None) -> list[str]:
    if rows is not None and not rows:
        raise ValueError("rows must not be empty; null measures all")
    for row in rows or ():
        if row not in CHOICES:
            raise ValueError(errors.unknown("row", row, CHOICES, "--help and conf/abilities.yaml name them"))
    return [row for row in CHOICES if rows is None or row in rows]


def _shipped(folder: Path) -> OmniMeasurements | None:
    """Return the measurements shipped with the model."""
    path = folder / SHIPPED
    if not path.is_file():
        return None
    plain = json.loads(path.read_text(encoding="utf-8"))
    return from_plain(OmniMeasurements, {k: v for k, v in plain.items() if k not in ("exhibits", "shipped")})


def _measure(session: OmniSession, key: str, results: OmniResults) -> None:
    """Measure one of CHOICES, and add it to the results."""
    ability = next((ability for ability in ABILITIES if ability.key == key), None)
    start = time.perf_counter()
    records: list[OmniRecord] = []
    try:
        if key == TABLE:
            results.bits = bits_table.measure(session)
        elif key == SAMPLES:
            abilities.samples(session)
        else:
            records = [ability.record(session)] if ability else COSTS[key](session)
    except ValueError as reason:  # a missing pack, or a prompt beyond the context: continue with the others
        results.absent[ability.title if ability else key.replace("_", " ")] = str(reason)
    for record in records:
        record.row_seconds = round(time.perf_counter() - start, 1)
    results.records += records


def write(results: OmniResults, out: Path, comparison: Path) -> None:
    """Write omni.json, omni.csv and report.html. The report shows the comparison in a folder, too, if there is one."""
    rows = []
    for record in results.records:
        low, high = record.interval or ("", "")
        rows.append({**asdict(record), "low": low, "high": high})
    files.write_together({out / "omni.json": to_json(results), out / "omni.csv": to_csv(rows, COLUMNS)})
    report.write(results, out, comparison)


def main(cfg: Any) -> OmniResults:
    """Run `tokenloom evaluate` for a multimodal model (conf/abilities.yaml)."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    keys = ("items", "rows", "seed", "device", "sampling")
    results = evaluate(plain["model"], plain["packs"], plain["out"], **{key: plain[key] for key in keys})
    console = Console()
    tables.show(results, console)
    console.print(f"report: {Path(plain['out']) / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    return results
