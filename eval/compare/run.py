"""Measurement of every item with every codec at every setting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenloom import devices, progress
from tokenloom.data import Item
from tokenloom.metrics.bd_rate import DEFINITION as BD_RATE

from ..protocols import RATES, TOKENS
from ..selection import Selection
from .entries import CodecEntry
from .exhibits import MOST, Example, make_example, make_exhibits
from .measurement import CodecMeasurement
from .modelled import Study
from .plan import Plan
from .records import ComparisonEnvironment
from .results import Results
from .targets import DEFINITIONS, TargetSearch, targets_of


class ComparisonRun:
    """Measures the codecs of a plan and fills in the results. After Ctrl-C, they hold the complete items."""

    def __init__(self, plan: Plan, results: Results, study: Study | None) -> None:
        self.plan, self.results, self.study = plan, results, study
        metrics = [metric for protocol in plan.protocols.values() for metric in protocol.metrics]
        results.protocols = {protocol.name: protocol.describe() for protocol in plan.protocols.values()}
        results.absent = {metric.name: reason for metric in metrics if (reason := metric.missing())}
        self.measurements: dict[str, list[CodecMeasurement]] = {}
        self.searches = {e.label: TargetSearch(e, t) for e in plan.entries if (t := targets_of(e, plan.targets))}
        self.examples: list[Example] = []

    def measure(self, selection: Selection) -> None:
        """Measure all items, make the exhibits, train for the modelled rates; then set the records of the results."""
        results, plan = self.results, self.plan
        with progress.bar("comparing", len(selection), "items") as advance:
            with self._interruptible():
                for item in selection:
                    self._measure(item, advance)
            for entry in plan.entries:  # codecs without items get records without values
                self._of(entry)
            self._check_not_empty()
            results.skipped = selection.skipped
            with self._interruptible():
                if not results.interrupted:
                    advance(0, "exhibits at equal rates")
                    results.exhibits = make_exhibits(
                        plan.entries, self.examples, results.folder,
                        rates=plan.rates, anchors=plan.anchors, protocols=plan.protocols,
                    )  # fmt: skip
        if self.study and not results.interrupted:
            with self._interruptible(), progress.bar("learning", self.study.total, "tokens") as advance:
                self.study.measure(advance)
        results.records = [m.record(results.title) for entry in plan.entries for m in self._of(entry)]
        for record in results.records:
            if record.codec in self.searches:
                record.targets = self.searches[record.codec].at(record.setting)

    def environment(self, seed: int, seconds: float) -> ComparisonEnvironment:
        """Return the record of the environment, with all definitions."""
        definitions = {"rates": RATES, "tokens": TOKENS, "BD-rate": BD_RATE}
        definitions |= {"modelled rate": self.study.definition()} if self.study else {}
        definitions |= {"targets": DEFINITIONS} if self.searches else {}
        rates = {str(modality): rate for modality, rate in self.plan.rates.items()}
        anchors = [*self.plan.anchors.values()]
        return ComparisonEnvironment(
            seed=seed, seconds=seconds, device=devices.describe(self.plan.device), anchors=anchors, rates=rates,
            definitions=definitions,
        )  # fmt: skip

    def _measure(self, item: Item, advance: progress.Bar) -> None:
        """Code an item with all codecs, then add all results. Interrupted or not, all codecs have the same items."""
        entries = [entry for entry in self.plan.entries if entry.modality is item.modality]
        for entry in entries:
            if entry.label not in self.measurements:
                entry.adapt(item)
                self._of(entry)[0].attempt(item)  # warm-up: the first call imports packages
        measurements, results = [m for entry in entries for m in self._of(entry)], []
        for measurement in measurements:
            advance(0, measurement.name)
            results.append(measurement.attempt(item))
            advance(1 / len(measurements))
        searches = [self.searches[entry.label] for entry in entries if entry.label in self.searches]
        curves = [search.attempt(item) for search in searches]
        if sum(other.item.modality is item.modality for other in self.examples) < MOST[item.modality]:
            folder = self.results.folder
            self.examples.append(make_example(len(self.examples), item, measurements, results, folder))
        for measurement, result in zip(measurements, results, strict=True):
            measurement.add(result)
        if self.study:
            self.study.add(item, measurements, results)
        for search, curve in zip(searches, curves, strict=True):
            search.add(curve)
        self.results.seen += 1

    def _of(self, entry: CodecEntry) -> list[CodecMeasurement]:
        """Return the measurements of a codec, one per setting of the sweep."""
        if entry.label not in self.measurements:
            protocol, sweep = self.plan.protocols[entry.modality], entry.codec.settings.sweep
            self.measurements[entry.label] = [
                CodecMeasurement(entry, setting, protocol, self.results.absent) for setting in sweep
            ]
        return self.measurements[entry.label]

    def _check_not_empty(self) -> None:
        if not self.results.interrupted and not self.results.seen:
            missing, labels = sorted(self.plan.modalities), [entry.label for entry in self.plan.entries]
            raise ValueError(
                f"{self.results.title} has no {' or '.join(missing)}, which {', '.join(labels)} would need"
            )

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.results.interrupted = True
