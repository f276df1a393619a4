"""Measurement of every item with every codec at every setting."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from tokenloom import devices, interrupts, own_code, progress, threads
from tokenloom.codecs.targets import Curve
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.metrics.bd_rate import DEFINITION as BD_RATE

from ..gallery.records import ExhibitTile
from ..protocols import RATES, TOKENS
from ..selection import Selection, digest
from .entries import CodecEntry
from .exhibits import MOST, Example, make_exhibits
from .journal import Journal, Key
from .measurement import CodecMeasurement, ItemResult
from .modelled import Study
from .plan import Plan
from .processes.pool import Briefing, Pool, cores
from .processes.tasks import Outcome, Performer, Task, curve_name, failed, tile_name
from .records import ComparisonEnvironment
from .report.standings import DEFINITION as STANDING
from .report.text import summary
from .results import Results
from .targets import DEFINITIONS, TargetSearch, targets_of


class ComparisonRun:
    """Measures the codecs of a plan one after the other, and fills in the results.

    A trial that the journal holds is not repeated. After Ctrl-C, the results hold the codecs that are complete.
    """

    def __init__(
        self, plan: Plan, results: Results, study: Study | None, selections: dict[Modality, Selection], journal: Journal
    ) -> None:
        if study:
            study.check(plan.entries)
        self.plan, self.results, self.study = plan, results, study
        self.selections, self.journal = selections, journal
        metrics = [metric for protocol in plan.protocols.values() for metric in protocol.metrics]
        results.protocols = {protocol.name: protocol.describe() for protocol in plan.protocols.values()}
        results.absent = {metric.name: reason for metric in metrics if (reason := metric.missing())}
        results.pending = [entry.label for entry in plan.entries]
        self.measurements: dict[str, list[CodecMeasurement]] = {}
        self.searches = {e.label: TargetSearch(e, t) for e in plan.entries if (t := targets_of(e, plan.targets))}
        self.tiles: defaultdict[tuple[Modality, int], list[ExhibitTile]] = defaultdict(list)
        self.fresh: dict[Key, ItemResult] = {}
        """Results of this process that are not yet added to the measurements."""
        self.waiting: deque[int] = deque()
        """Items of the present codec whose results are not yet added."""
        self.begun = 0
        """Number of trials that began in this process."""
        self.work = defaultdict[str, float](float)
        self.single = plan.device.type == "cpu"
        """Whether each process has one thread: then the figures do not depend on the number of processes."""
        self.performer = Performer(journal.media)
        self.pool = Pool(
            self._briefing, self._begin, self._perform, self._keep, plan.entries, cores() if self.single else 1
        )
        self.advance: Callable[[float], None] = lambda _: None
        for modality, selection in selections.items():
            if (known := journal.facts.get(f"chosen {modality}")) is not None:
                selection.chosen = known

    def measure(self, publish: Callable[[], None]) -> None:
        """Measure all codecs, make the exhibits, train for the modelled rates.

        Args:
            publish: Function that writes the results so far. It is called after each codec but the last.
        """
        results = self.results
        with self._interruptible():
            with (
                threads.limit(1) if self.single else nullcontext(),
                progress.bar("comparing", self._total(), "trials", done=len(self.journal.results)) as advance,
            ):
                self.advance = advance
                if self.journal.results:
                    advance.say(f"continuing with {len(self.journal.results):,} trials of an unfinished comparison")
                for entry in self.plan.entries:
                    self._measure(entry, advance)
                    self._finish(entry, advance)
                    if results.pending and results.seen:
                        publish()
                if not results.seen:
                    self.journal.remove()
                    self._refuse()
                self.pool.close()
                advance(0, "exhibits at an equal rate")
                results.exhibits = make_exhibits(
                    self.plan.entries, self._examples(), self.journal.media,
                    rates=self.plan.rates, anchors=self.plan.anchors, protocols=self.plan.protocols,
                )  # fmt: skip
            if self.study:
                with progress.bar("learning", self.study.total, "tokens") as advance:
                    self.study.measure(advance)
                results.records = [r for entry in self.plan.entries for r in self._records(entry)]
        if results.interrupted and not results.records:  # the items so far of the first codec
            self._add_known(self.plan.entries[0])
            results.records = self._records(self.plan.entries[0])
            results.seen = results.records[0].n + results.records[0].failed

    def environment(self, seed: int, seconds: float) -> ComparisonEnvironment:
        """Return the record of the environment, with all definitions."""
        definitions = {"rates": RATES, "tokens": TOKENS, "best by rate": STANDING, "BD-rate": BD_RATE}
        definitions |= {"modelled rate": self.study.definition()} if self.study else {}
        definitions |= {"targets": DEFINITIONS} if self.searches else {}
        rates = {str(modality): rate for modality, rate in self.plan.rates.items()}
        anchors = [*self.plan.anchors.values()]
        return ComparisonEnvironment(
            seed=seed, seconds=seconds, device=devices.describe(self.plan.device), anchors=anchors, rates=rates,
            definitions=definitions, threads=1 if self.single else torch.get_num_threads(), processes=self.pool.used,
            work={part: round(seconds, 3) for part, seconds in self.work.items()},
        )  # fmt: skip

    def _total(self) -> int:
        return sum(len(self.selections[e.modality]) * len(e.codec.settings.sweep) for e in self.plan.entries)

    def _measure(self, entry: CodecEntry, advance: progress.Bar) -> None:
        """Code all items of the codec's modality at all settings. Tasks end in any order, and are added in order."""
        selection, fact = self.selections[entry.modality], f"chosen {entry.modality}"
        known = selection.numbered(lambda i: entry.label in self.measurements and self._known(entry, i))
        for position, (i, item) in enumerate(known):
            if entry.label not in self.measurements:
                assert item is not None  # the first one is not skipped
                advance(0, entry.label)
                entry.adapt(item)
            for number, measurement in enumerate(self._of(entry)):
                self._trial(measurement, (entry.label, number, i), position, item, advance)
            if entry.label in self.searches and item is not None and curve_name(entry.label, i) not in self._facts:
                self.pool.submit(self._task(entry, None, i, position, item), 1)
            self.waiting.append(i)
            self._add_known(entry)
        self.pool.drain()
        self._add_known(entry)
        if fact not in self.journal.facts:
            self.journal.note(fact, selection.chosen)

    def _add_known(self, entry: CodecEntry) -> None:
        """Add the results of the first items that wait, as far as all of an item are there."""
        while self.waiting and self._known(entry, self.waiting[0]):
            self._add(entry, self.waiting.popleft())

    def _add(self, entry: CodecEntry, i: int) -> None:
        """Add the results of an item to the measurements."""
        measurements = self._of(entry)
        keys = [(entry.label, number, i) for number in range(len(measurements))]
        results = [self.fresh.pop(key) if key in self.fresh else self.journal.results[key] for key in keys]
        if entry.label in self.searches:
            known = self._facts[curve_name(entry.label, i)]
            curve = known["failed"] if "failed" in known else Curve(known["tokens"], known["psnr"], None)
            self.searches[entry.label].add(curve)
            self.work["other"] += known.get("seconds", 0.0)
        for measurement, result, key in zip(measurements, results, keys, strict=True):
            measurement.add(result)
            for part, seconds in result.seconds().items():
                self.work[part] += seconds
            if (tile := tile_name(key)) in self._facts:
                self.tiles[entry.modality, i].append(ExhibitTile(**self._facts[tile]))
        if self.study:
            self.study.add(measurements, results)

    def _finish(self, entry: CodecEntry, advance: progress.Bar) -> None:
        """Add the records of a complete codec and say what came out."""
        results = self.results
        records = self._records(entry)
        results.records += records
        results.pending.remove(entry.label)
        results.seen = sum(len(s) for s in self.selections.values() if s.chosen is not None)
        results.skipped = len({i for s in self.selections.values() for i in s.broken})
        advance.say(summary(results, records))

    def _records(self, entry: CodecEntry) -> list:
        records = [m.record(self.results.title) for m in self._of(entry)]
        if entry.label in self.searches:
            for record in records:
                record.targets = self.searches[entry.label].at(record.setting)
        return records

    @property
    def _facts(self) -> dict[str, Any]:
        return self.journal.facts

    def _known(self, entry: CodecEntry, i: int) -> bool:
        """Whether all results of an item are there."""
        curve = entry.label not in self.searches or curve_name(entry.label, i) in self._facts
        keys = ((entry.label, number, i) for number in range(len(self._of(entry))))
        return curve and all(key in self.fresh or key in self.journal.results for key in keys)

    def _trial(
        self, measurement: CodecMeasurement, key: Key, position: int, item: Item | None, advance: progress.Bar
    ) -> None:
        """Have an item measured at one setting, unless the journal has the result."""
        advance(0, measurement.name)
        if (result := self.journal.results.get(key)) is not None:
            self._check_unchanged(result, item)
            return
        assert item is not None
        task = self._task(measurement.entry, key[1], key[2], position, item)
        self.begun += 1
        if reason := self.journal.refusal(key):
            self._keep(task, failed(task, reason))
        else:
            self.pool.submit(task, self._total() - len(self.journal.results) - self.begun)

    def _task(self, entry: CodecEntry, number: int | None, i: int, position: int, item: Item) -> Task:
        setting = None if number is None else self._of(entry)[number].setting
        place, codes = self.plan.entries.index(entry), self.study is not None
        return Task(entry.label, place, number, setting, i, position, item, codes)

    def _begin(self, task: Task) -> None:
        if task.number is not None:
            self.journal.begin(task.key)

    def _perform(self, task: Task) -> Outcome:
        """Perform a task in this process."""
        entry = self.plan.entries[task.place]
        if task.number is None:
            return self.performer.curve(task, self.searches[entry.label])
        return self.performer.trial(task, self._of(entry)[task.number])

    def _keep(self, task: Task, outcome: Outcome) -> None:
        """Keep what a task came to, in the order in which tasks end."""
        for name, value in outcome.facts.items():
            self.journal.note(name, value)
        if outcome.result is not None:
            self.journal.add(task.key, outcome.result)
            self.fresh[task.key] = outcome.result
            self.advance(1)

    def _briefing(self) -> Briefing:
        plan, protocols = self.plan, self.plan.protocols.values()
        return Briefing(
            imports=own_code.paths(),
            sources=tuple(entry.source for entry in plan.entries),
            identities=self.journal.plan["codecs"],
            protocols=tuple((p.name, tuple(metric.name for metric in p.metrics)) for p in protocols),
            recognizer=plan.recognizer,
            absent=self.results.absent,
            targets=plan.targets,
            folder=self.journal.media,
        )

    def _check_unchanged(self, result: ItemResult, item: Item | None) -> None:
        if item is not None and digest(item) != result.digest:
            raise ValueError(
                f"{self.results.folder} holds an unfinished comparison, and its item {item.key} has changed since: "
                f"name another out=, or remove {self.journal.path}"
            )

    def _examples(self) -> list[Example]:
        """Return the items of the exhibits, the first ones of each modality."""
        chosen = [(m, i) for m, s in self.selections.items() for i in (s.chosen or [])[: MOST[m]]]
        return [Example(self.selections[m].source[i], self.tiles[m, i]) for m, i in chosen]

    def _of(self, entry: CodecEntry) -> list[CodecMeasurement]:
        """Return the measurements of a codec, one per setting of the sweep."""
        if entry.label not in self.measurements:
            protocol, sweep = self.plan.protocols[entry.modality], entry.codec.settings.sweep
            self.measurements[entry.label] = [
                CodecMeasurement(entry, setting, protocol, self.results.absent) for setting in sweep
            ]
        return self.measurements[entry.label]

    def _refuse(self) -> None:
        missing, labels = sorted(self.plan.modalities), [entry.label for entry in self.plan.entries]
        raise ValueError(f"{self.results.title} has no {' or '.join(missing)}, which {', '.join(labels)} would need")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        try:
            with interrupts.terminable():
                yield
        except KeyboardInterrupt:
            self.results.interrupted = True
        finally:
            self.pool.close()
