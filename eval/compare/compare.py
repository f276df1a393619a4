"""Codecs × sweep × data: which codec buys how much fidelity for how many bits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenloom.codecs.types import Modality
from tokenloom.data import Item, Source

from ..datasets import open_dataset, open_training
from ..environment import Environment
from ..metric import Protocol
from ..modelled.study import Modelled, Study
from ..protocols import DEFAULT, RATES, TOKENS, protocol
from ..serialize import to_plain
from . import adaptive, bd, exhibits, plots, report, takeaways
from .adaptive import Adaptive
from .entries import Contestant, Draw, field_of
from .figures import Figures
from .results import Results

ANCHORS = {Modality.IMAGE: "image/jpeg", Modality.AUDIO: "audio/opus", Modality.TEXT: "text/bytes"}


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
    modelled: Modelled | None = None,
    title: str | None = None,
    strict: bool = False,
) -> Results:
    """Run every codec at every setting of its sweep over the data, and write all there is to know.

    codec_names  registry names, shipped names, folders, globs of folders; with "+diffusion" behind it a codec's codes
                 are decoded by the decoder that belongs to it, with "+NAME" by that one, "@2" in 2 steps; a mapping
                 {name: image/taming, checkpoint: last.ckpt, …} is a codec with another project's weights
    anchor       whom BD-rate is against, at most one a modality; None: JPEG, Opus, bytes, else the first
    items        at most so many of each modality, drawn with `seed`; None: all
    rate         of the exhibits: a number, or {"bits_per_pixel": …, "kbps": …};
                 None: what the first learned codec needs at its default setting
    protocols    names of protocols.PROTOCOLS, at most one a modality
    targets      of "psnr" and "slope": each is shown beside the fixed settings of the image codecs, at equal
                 mean tokens; None: both for codecs whose number of tokens is free; (): none
    modelled     measure the modelled rate too (see modelled.py); without training data of its own, and where `items`
                 does not say how many, a fifth of the data is evaluated and the rest learned from
    strict       refuse a broken item of the data instead of counting it

    Writes results.json, results.csv, plots/, exhibits/ and report.html to `out`. Ctrl-C ends the
    run after the last whole item: what was found so far is written, `interrupted` is True.
    Raises ValueError or FileNotFoundError on arguments that mean nothing and data without items.
    """
    contestants = field_of(list(codec_names))
    chosen = _protocols(protocols, contestants)
    anchors = _anchors(anchor, contestants)
    targets = adaptive.check(targets)
    rates = exhibits.rates(rate, {c.modality for c in contestants})
    results = Results(Path(out), title or source.name or "data")
    results.protocols = {p.name: p.describe() for p in chosen.values()}
    results.absent = {m.name: reason for p in chosen.values() for m in p.metrics if (reason := m.missing())}
    source, study = modelled.study(source, items, seed) if modelled else (source, None)
    if study:
        study.check(contestants)
    draw = Draw(source, {c.modality for c in contestants}, items, seed, strict)
    start = time.perf_counter()
    with _progress(len(draw), "items") as advance:
        curves = {c.label: Adaptive(c, names) for c in contestants if (names := adaptive.wanted(c, targets))}
        figures, kept = _gather(draw, contestants, chosen, results, advance, curves, study)
        _refuse_nothing(results, contestants)
        results.skipped = draw.skipped
        try:
            if not results.interrupted:
                advance(0, "pictures and sound at equal rates")
                results.exhibits = exhibits.make(
                    contestants, kept, results.folder, rates=rates, anchors=anchors, protocols=chosen
                )
        except KeyboardInterrupt:
            results.interrupted = True
    if study and not results.interrupted:
        _learn(study, results)
    results.records = [f.record(results.title) for f in figures]
    for record in results.records:
        record["targets"] = curves[record["codec"]].at(record["setting"]) if record["codec"] in curves else {}
    results.bd_rates = bd.table(results, {str(m): label for m, label in anchors.items()})
    about = {str(m): value for m, value in rates.items()}
    results.environment = {
        **to_plain(Environment(seed=seed, seconds=round(time.perf_counter() - start, 1))),
        "anchors": [*anchors.values()],
        "rates": about,
        "definitions": _definitions(study, curves),
    }
    results.takeaways = takeaways.takeaways(results)
    results.write()
    plots.write(results)
    report.write(results)
    return results


def _definitions(study: Study | None, curves: Mapping[str, Adaptive]) -> dict[str, Any]:
    """What the figures of this comparison mean, for its report."""
    found = {"rates": RATES, "tokens": TOKENS, "BD-rate": bd.PROTOCOL}
    if study:
        found["modelled rate"] = study.definition()
    if curves:
        found["targets"] = adaptive.DEFINITION
    return found


def main(cfg: Any) -> Results:
    """`tokenloom compare`: the composed config of conf/compare.yaml → files, a table, the report's path."""
    from omegaconf import OmegaConf
    from rich.console import Console

    from . import tables

    plain = OmegaConf.to_container(cfg, resolve=True)
    chosen = open_dataset(plain["data"])
    keys = ("anchor", "items", "rate", "seed", "protocols", "targets")
    arguments = {key: plain[key] for key in keys} | {"modelled": open_modelled(plain)}
    results = compare(
        plain["codecs"], chosen.source, plain["out"], title=chosen.title, strict=chosen.strict, **arguments
    )
    console = Console()
    tables.show(results, console)
    for line in results.takeaways:
        console.print(f"• {line}", highlight=False, markup=False, soft_wrap=True)
    if results.interrupted:
        console.print("interrupted: the figures are those of the items done so far")
    console.print(f"report: {results.report}", highlight=False, markup=False, soft_wrap=True)
    return results


def open_modelled(plain: dict[str, Any]) -> Modelled | None:
    """The keys `modelled`, `training` and `budget`."""
    if not plain["modelled"]:
        if plain["training"] is not None:
            raise ValueError("training= is what the modelled rate learns from; add modelled=true")
        return None
    training = open_training(plain["training"])
    if training is None:
        return Modelled(tokens=plain["budget"])
    training.source.name = training.title
    return Modelled(training.source, plain["budget"], training.strict)


def _gather(
    draw: Draw,
    contestants: list[Contestant],
    chosen: dict[Modality, Protocol],
    results: Results,
    advance: Any,
    curves: dict[str, Adaptive],
    study: Study | None,
) -> tuple[list[Figures], list[Item]]:
    """Every item through every codec and setting; keeps the first few items for the exhibits.

    An item counts once all codecs are through with it, so that an interrupted run still
    compares them on the same items.
    """
    figures: dict[str, list[Figures]] = {}
    kept: list[Item] = []

    def start(contestant: Contestant) -> None:
        protocol, sweep = chosen[contestant.modality], contestant.codec.settings.sweep
        figures[contestant.label] = [Figures(contestant, value, protocol, results.absent) for value in sweep]

    try:
        for item in draw:
            mine = [c for c in contestants if c.modality is item.modality]
            for contestant in mine:
                if contestant.label not in figures:
                    contestant.meet(item)
                    start(contestant)
                    figures[contestant.label][0].attempt(item)  # what a first call imports is not the codec's speed
            outcomes = []
            trials = [f for c in mine for f in figures[c.label]]
            for f in trials:
                advance(0, f"{f.contestant.label}{'' if f.setting is None else f' at {f.setting}'}")
                outcomes.append(f.attempt(item))
                advance(1 / len(trials))
            drawn = {c.label: curves[c.label].attempt(item) for c in mine if c.label in curves}
            for f, outcome in zip(trials, outcomes, strict=True):
                f.add(outcome)
            if study:
                study.add(item, trials, outcomes)
            for label, curve in drawn.items():
                curves[label].add(curve)
            if sum(other.modality is item.modality for other in kept) < exhibits.MOST[item.modality]:
                kept.append(item)
            results.seen += 1
    except KeyboardInterrupt:
        results.interrupted = True
    for contestant in contestants:
        if contestant.label not in figures:
            start(contestant)
    return [f for c in contestants for f in figures[c.label]], kept


def _refuse_nothing(results: Results, contestants: list[Contestant]) -> None:
    """Data without a single item for these codecs is a mistake, not a result."""
    if not results.interrupted and not results.seen:
        wanted, labels = sorted({c.modality for c in contestants}), [c.label for c in contestants]
        raise ValueError(f"{results.title} holds no {' or '.join(wanted)}, which {', '.join(labels)} would need")


def _learn(study: Study, results: Results) -> None:
    """The modelled rate of every codec and setting; Ctrl-C leaves those found so far."""
    try:
        with _progress(study.total, "tokens") as advance:
            study.measure(advance)
    except KeyboardInterrupt:
        results.interrupted = True


@contextmanager
def _progress(total: int, unit: str) -> Iterator[Any]:
    """A progress bar over items or tokens with their rate and the time left; gives advance(share, text)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    digits = 2 if unit == "items" else 0

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.{digits}f} {unit}/s" if task.speed else "", style="progress.data.speed")

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    with Progress(*columns, Speed(), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("comparing", total=total)

        def advance(share: float, text: str | None = None) -> None:
            progress.update(task, advance=share, description=None if text is None else f"{text:<28.28}")

        yield advance


def _protocols(names: Sequence[str], contestants: list[Contestant]) -> dict[Modality, Protocol]:
    chosen: dict[Modality, Protocol] = {}
    for p in map(protocol, names):
        if p.modality in chosen:
            raise ValueError(f"protocols {chosen[p.modality].name} and {p.name} are both for {p.modality}; choose one")
        chosen[p.modality] = p
    for c in contestants:
        if c.modality not in chosen:
            raise ValueError(f"protocols {list(names)} has none for {c.modality}, which {c.label} needs")
    return {m: p for m, p in chosen.items() if m in {c.modality for c in contestants}}


def _anchors(anchor: str | Sequence[str] | None, contestants: list[Contestant]) -> dict[Modality, str]:
    """The anchor of each modality that takes part."""
    known = {c.label: c.modality for c in contestants}
    wanted = [] if anchor is None else [anchor] if isinstance(anchor, str) else list(anchor)
    anchors: dict[Modality, str] = {}
    for label in wanted:
        if label not in known:
            raise ValueError(f"anchor {label!r} is none of the codecs compared: {', '.join(known)}")
        if known[label] in anchors:
            raise ValueError(f"anchors {anchors[known[label]]} and {label} are both for {known[label]}; choose one")
        anchors[known[label]] = label
    for label, modality in known.items():
        anchors.setdefault(modality, ANCHORS[modality] if ANCHORS[modality] in known else label)
    return anchors
