"""Comparison of codecs by rate and quality, at every setting of their sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tokenloom.data import Source
from tokenloom.metrics.speech.recognizers import CLOSED

from .. import judges
from ..protocols import DEFAULT
from ..selection import Selection, contents
from .entries import CodecSource
from .journal import Journal
from .modelled import ModelledRate
from .plan import make_plan
from .published import beside
from .publishing import Publisher
from .results import Results
from .run import ComparisonRun


def compare(
    codec_names: Sequence[CodecSource],
    source: Source,
    out: str | Path,
    *,
    anchor: str | Sequence[str] | None = None,
    items: int | None = None,
    rate: float | Mapping[str, float] | None = None,
    seed: int = 0,
    protocols: Sequence[str] = DEFAULT,
    targets: Sequence[str] | None = None,
    references: Sequence[str | Path] = (),
    export: str | None = None,
    modelled: ModelledRate | None = None,
    device: str | torch.device = "auto",
    recognizer: str = CLOSED,
    title: str | None = None,
    strict: bool = False,
) -> Results:
    """Measure every codec at every setting of its sweep on the data.

    Writes tables and report to `out` after each codec, plots and exhibits at the end; a complete comparison there stays
    until then. After Ctrl-C, the results hold the complete codecs. The same call continues an unfinished comparison.

    Args:
        codec_names: Names, folders, classes of Python files, mappings and codecs, as `load_entries` takes them.
        source: The data.
        out: Folder for the results.
        anchor: Reference codec of BD-rate, at most one per modality. Default: JPEG, Opus, bytes, else the first codec.
        items: Largest number of items of each modality, drawn with `seed`. Default: all.
        rate: Rate of the exhibits, a number or {"bits_per_pixel": …, "kbps": …}. Default: that of a learned codec.
        seed: Seed of the draw and the training.
        protocols: Names of protocols, at most one per modality.
        targets: "psnr", "slope" or both, at equal mean tokens. Default: both, for image codecs of variable length.
        references: Published curves to draw beside those of images: JSON files, folders and globs; see `layout.read`.
        export: "compressai" writes the curves of image codecs in that layout, to the folder `compressai`.
        modelled: Options of the modelled rate; None: not measured. Without training data and `items`, a fifth of the
            data is evaluated and the transformers learn from the rest.
        device: auto, cpu, cuda, cuda:1 or mps, for learned codecs. All else runs on the CPU.
        recognizer: Recognizer of speech in the protocol `speech`; see `Recognizer`.
        title: Title of the data.
        strict: Raise an error for a broken item instead of counting it.

    Raises:
        ValueError: If an argument is invalid, or the data lack items, or changed since the call that is continued.
        FileNotFoundError: If a codec or a file does not exist.
    """
    ears = judges.recognizer(recognizer, protocols, source)
    plan = make_plan(codec_names, protocols, anchor, rate, targets, device, ears)
    results = Results(Path(out), title or source.name or "data", references=beside.read(references, export, plan))
    plan.check(source, results.title)
    source, study = modelled.study(source, items, seed) if modelled else (source, None)
    selections = {m: Selection(source, m, items, seed, strict) for m in sorted(plan.modalities)}
    identity = plan.identity() | contents(source) | {"items": items, "seed": seed, "strict": strict}
    journal = Journal(results.folder, identity | {"modelled": modelled and modelled.describe()})
    return _measured(ComparisonRun(plan, results, study, selections, journal), journal, seed, export is not None)


def _measured(run: ComparisonRun, journal: Journal, seed: int, exports: bool) -> Results:
    """Measure, write the results, and return them."""
    publisher = Publisher(run.results, journal.media, lambda seconds: run.environment(seed, seconds), exports)
    with journal.open():
        run.measure(publisher.partial)
        publisher.final()
    if not run.results.interrupted:
        journal.remove()
    return run.results


def evaluate(codec: str, source: Source, out: str | Path, **arguments: Any) -> Results:
    """Measure one codec; see `compare` for the arguments."""
    return compare([codec], source, out, **arguments)
