"""Measurement of every item with every codec at every setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tokenloom import devices, interrupts, progress
from tokenloom.codecs.targets import Curve
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.metrics.bd_rate import DEFINITION as BD_RATE

from ..gallery.records import ExhibitTile
from ..protocols import RATES, TOKENS
from ..selection import Selection, digest
from ..serialize import to_plain
from .entries import CodecEntry
from .exhibits import MOST, Example, make_exhibits, make_tile
from .journal import Journal, Key, pack
from .measurement import CodecMeasurement, ItemResult
from .modelled import Study
from .plan import Plan
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
            with progress.bar("comparing", self._total(), "trials", done=len(self.journal.results)) as advance:
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
            definitions=definitions,
        )  # fmt: skip

    def _total(self) -> int:
        return sum(len(self.selections[e.modality]) * len(e.codec.settings.sweep) for e in self.plan.entries)

    def _measure(self, entry: CodecEntry, advance: progress.Bar) -> None:
        """Code all items of the codec's modality at all settings."""
        selection, fact = self.selections[entry.modality], f"chosen {entry.modality}"
        known = selection.numbered(lambda i: entry.label in self.measurements and self._known(entry, i))
        for position, (i, item) in enumerate(known):
            if entry.label not in self.measurements:
                assert item is not None  # the first one is not skipped
                advance(0, entry.label)
                entry.adapt(item)
                if not self._known(entry, i):
                    self._of(entry)[0].attempt(item)  # warm-up: the first call imports packages
            measurements = self._of(entry)
            results = []
            for number, measurement in enumerate(measurements):
                done = (entry.label, number, i) in self.journal.results
                advance(0, measurement.name)
                results.append(self._trial(measurement, (entry.label, number, i), position, item))
                advance(0 if done else 1)
            if entry.label in self.searches:
                self.searches[entry.label].add(self._curve(entry, i, item))
            for measurement, result in zip(measurements, results, strict=True):
                measurement.add(result)
            if self.study:
                self.study.add(measurements, results)
        if fact not in self.journal.facts:
            self.journal.note(fact, selection.chosen)

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

    def _known(self, entry: CodecEntry, i: int) -> bool:
        """Whether the journal has all results of an item."""
        curve = entry.label not in self.searches or f"curve {entry.label} {i}" in self.journal.facts
        return curve and all((entry.label, n, i) in self.journal.results for n in range(len(self._of(entry))))

    def _trial(self, measurement: CodecMeasurement, key: Key, position: int, item: Item | None) -> ItemResult:
        """Return the result of a trial, from the journal if it has it. The first items get tiles for the exhibits."""
        journal, modality, (label, number, i) = self.journal, measurement.entry.modality, key
        tile = f"tile {label} {number} {i}"
        if (result := journal.results.get(key)) is not None:
            self._check_unchanged(result, item)
        else:
            assert item is not None
            if reason := journal.begin(key):
                result = ItemResult(key=item.key, digest=digest(item), failed=reason)
            else:
                result = measurement.attempt(item)
            if self.study and result.trial:
                result.codes = pack(result.trial.codes)
            if position < MOST[modality]:
                place = f"{self.plan.entries.index(measurement.entry):02d}-{number:02d}"  # codecs may have like names
                made = make_tile(position, item, place, measurement, result, journal.media)
                journal.note(tile, to_plain(made)) if made else None
            journal.add(key, result)
            result.trial = None  # it holds the signals
        if tile in journal.facts:
            self.tiles[modality, i].append(ExhibitTile(**journal.facts[tile]))
        return result

    def _curve(self, entry: CodecEntry, i: int, item: Item | None) -> Curve | str:
        """Return the curve of an item, or the reason of a failure, from the journal if it has it."""
        name = f"curve {entry.label} {i}"
        if name not in self.journal.facts:
            assert item is not None
            curve = self.searches[entry.label].attempt(item)
            known = {"failed": curve} if isinstance(curve, str) else {"tokens": curve.tokens, "psnr": curve.psnr}
            self.journal.note(name, known)
        known = self.journal.facts[name]
        return known["failed"] if "failed" in known else Curve(known["tokens"], known["psnr"], None)

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
