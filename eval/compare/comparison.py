"""Comparison of codecs by rate and quality, at every setting of their sweeps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tokenloom.data import Source
from tokenloom.metrics.bd_rate import bd_rate

from ..protocols import DEFAULT
from ..selection import Selection
from .modelled import ModelledRate
from .plan import Plan, make_plan
from .records import BDRow
from .report import page, plots
from .report.takeaways import takeaways
from .results import Results
from .run import ComparisonRun


def compare(
    codec_names: Sequence[str | Mapping[str, Any]],
    source: Source,
    out: str | Path,
    *,
    anchor: str | Sequence[str] | None = None,
    items: int | None = None,
    rate: float | Mapping[str, float] | None = None,
    seed: int = 0,
    protocols: Sequence[str] = DEFAULT,
    targets: Sequence[str] | None = None,
    modelled: ModelledRate | None = None,
    device: str | torch.device = "auto",
    title: str | None = None,
    strict: bool = False,
) -> Results:
    """Measure every codec at every setting of its sweep on the data.

    Writes results.json, results.csv, plots/, exhibits/ and report.html to `out`. After Ctrl-C, the results hold the
    complete items, and `interrupted` is True.

    Args:
        codec_names: Registry names, shipped names, folders, globs of folders. "+diffusion" adds the diffusion decoder
            of the codec, "+NAME" another one, "@2" its number of steps. A mapping {name: image/taming,
            checkpoint: last.ckpt, …} is a codec with weights of another project.
        source: The data.
        out: Folder for the results.
        anchor: Reference codec of BD-rate, at most one per modality. Default: JPEG, Opus, bytes, else the first codec.
        items: Largest number of items of each modality, drawn with `seed`. Default: all.
        rate: Rate of the exhibits, a number or {"bits_per_pixel": …, "kbps": …}. Default: the rate of the first
            learned codec at its default setting.
        seed: Seed of the draw and the training.
        protocols: Names of protocols, at most one per modality.
        targets: "psnr", "slope" or both, to compare with fixed settings of image codecs at equal mean tokens. Default:
            both, for codecs of variable length.
        modelled: Options of the modelled rate; None: not measured. Without training data and `items`, a fifth of the
            data is evaluated and the transformers learn from the rest.
        device: auto, cpu, cuda, cuda:1 or mps, for learned codecs. Other codecs, metrics and the transformers of the
            modelled rate run on the CPU.
        title: Title of the data.
        strict: Raise an error for a broken item instead of counting it.

    Raises:
        ValueError: If an argument is invalid, or the data have no item for the codecs.
        FileNotFoundError: If a codec or its checkpoint does not exist.
    """
    plan = make_plan(codec_names, protocols, anchor, rate, targets, device)
    results = Results(Path(out), title or source.name or "data")
    source, study = modelled.study(source, items, seed) if modelled else (source, None)
    if study:
        study.check(plan.entries)
    selection = Selection(source, plan.modalities, items, seed, strict)
    start = time.perf_counter()
    run = ComparisonRun(plan, results, study)
    run.measure(selection)
    results.environment = run.environment(seed, round(time.perf_counter() - start, 1))
    return _conclude(results, plan)


def _conclude(results: Results, plan: Plan) -> Results:
    """Add BD-rates and takeaways to the measured results, and write all files."""
    results.bd_rates = [row for m, label in plan.anchors.items() for row in _bd_rates(results, str(m), label)]
    results.takeaways = takeaways(results)
    results.write()
    plots.write(results)
    page.write(results)
    return results


def evaluate(codec: str, source: Source, out: str | Path, **arguments: Any) -> Results:
    """Measure one codec; see `compare` for the arguments."""
    return compare([codec], source, out, **arguments)


def _bd_rates(results: Results, modality: str, anchor: str) -> list[BDRow]:
    """Return the BD-rates of all other codecs of a modality, in every metric with a curve of the anchor."""
    rows, records = [], results.of(modality)
    codecs = [codec for codec in dict.fromkeys(r.codec for r in records) if codec != anchor]
    for metric in dict.fromkeys(name for r in records for name in r.metrics):
        base = results.curve(modality, anchor, metric)
        for codec in codecs if base else ():
            percent = overlap = reason = None
            try:
                percent, overlap = bd_rate(base, results.curve(modality, codec, metric))
            except ValueError as error:
                reason = str(error)
            rows.append(BDRow(modality=modality, anchor=anchor, codec=codec, metric=metric,
                              label=results.metric(modality, metric).label, percent=percent, overlap=overlap,
                              reason=reason))  # fmt: skip
    return rows
