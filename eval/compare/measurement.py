"""Measurement of one codec at one setting, item by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenloom import devices
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.errors import describe
from tokenloom.metrics.errors import Unmeasurable
from tokenloom.metrics.tokens import CodeCounts, same_share

from .. import trial
from ..metric import ItemValues, Metric, Protocol
from ..trial import Trial
from .entries import CodecEntry
from .records import KINDS, ModelledRecord, Record, Timing

Value = float | str
"""A value, or the reason why it is missing."""


@dataclass(frozen=True)
class ItemResult:
    """Result of one item: a trial with the values of metrics, or the reason of a failure."""

    item: Item
    trial: Trial | None = None
    values: dict[str, Value] = field(default_factory=dict)
    idempotence: float | None = None
    reason: str = ""


class CodecMeasurement:
    """Collects rates, metrics and counts of one codec at one setting over a set, without the metrics in `absent`."""

    def __init__(self, entry: CodecEntry, setting: Any, protocol: Protocol, absent: dict[str, str]) -> None:
        self.entry, self.setting, self.protocol = entry, setting, protocol
        self.metrics = [m for m in protocol.metrics if m.name not in absent]
        self.set_level = {m.name: m.function(**m.settings) for m in self.metrics if m.set_level}
        self.values = {m.name: ItemValues() for m in self.metrics}
        self.rates, self.per_token = {k: ItemValues() for k in KINDS}, {k: ItemValues() for k in KINDS}
        self.tokens, self.idempotence, self.failures = ItemValues(), ItemValues(), ItemValues()
        self.counts = CodeCounts(entry.codec.spec.codebook_sizes)
        self.encode_seconds = self.decode_seconds = self.amount = 0.0
        self.items: list[dict[str, Any]] = []
        self.modelled: ModelledRecord | None = None

    @property
    def name(self) -> str:
        """Label of the codec with the setting."""
        return self.entry.name_at(self.setting)

    def attempt(self, item: Item) -> ItemResult:
        """Code an item and compute its metrics. A failure of the codec becomes a result with a reason."""
        try:
            codec = self.entry.codec_for(item)
            done = trial.run(codec, item, self.setting)
            # not for codecs whose tokens are the bytes of a file: hardly any would be equal
            again = codec.encode(done.decoded, self.setting) if codec.spec.total else None
        except Exception as error:  # a codec of a third party can raise anything
            return ItemResult(item, reason=describe(error))
        values = {m.name: measure(m, item, done) for m in self.metrics if not m.set_level}
        return ItemResult(item, done, values, None if again is None else same_share(done.codes, again))

    def add(self, result: ItemResult) -> None:
        item, done = result.item, result.trial
        if done is None:
            self.failures.fail(result.reason)
            self.items.append({"key": item.key, "failed": result.reason})
            return
        for kind, bits in done.bits.items():
            if bits is not None:
                self.rates[kind].add(done.rates[kind])
                self.per_token[kind].add(bits / done.tokens if done.tokens else math.nan)
        for name, value in result.values.items():
            self.values[name].add(value) if isinstance(value, float) else self.values[name].fail(value)
        for state in self.set_level.values():
            state.update(item.signal, done.output, **_sample_rate(item))
        size = trial.amount(item)
        self.tokens.add(done.tokens / size if self.entry.modality is Modality.AUDIO else done.tokens)
        if result.idempotence is not None:
            self.idempotence.add(result.idempotence)
        self.counts.update(done.codes)
        self.encode_seconds += done.encode_seconds
        self.decode_seconds += done.decode_seconds
        self.amount += size
        values = {name: "inf" if value == math.inf else value for name, value in result.values.items()}
        self.items.append(
            {"key": item.key, "bytes": len(done.data), "tokens": done.tokens, **done.rates, **values}
            | {"idempotence": result.idempotence}
            | {"encode_seconds": done.encode_seconds, "decode_seconds": done.decode_seconds}
        )

    def add_modelled(self, modelled: ModelledRecord, trials: Sequence[Trial], bits: Sequence[float]) -> None:
        """Add the record of the training, and the modelled bits of all items in their order; () if it failed."""
        self.modelled = modelled
        rows = (row for row in self.items if "failed" not in row)
        for done, cost, row in zip(trials, bits, rows, strict=bool(trials)):
            row["modelled"] = cost * done.rates["coded"] / done.bits["coded"]  # in the unit of the modality
            self.rates["modelled"].add(row["modelled"])
            self.per_token["modelled"].add(cost / done.tokens if done.tokens else math.nan)

    def record(self, title: str) -> Record:
        """Return the record of a set with this title."""
        for name, state in self.set_level.items():
            self.values[name] = ItemValues()
            try:
                self.values[name].add(state.value())
            except Unmeasurable as reason:
                self.values[name].fail(str(reason))
        failures = self.failures.summary()
        codec, modality = self.entry.codec, self.entry.modality
        return Record(
            codec=self.entry.label,
            kind=codec.name,
            learned=self.entry.learned,
            parameters=sum(p.numel() for p in codec.parameters()),
            modality=str(modality),
            set=title,
            setting_name=codec.settings.name,
            setting=self.setting,
            default=self.setting == codec.settings.default,
            protocol=self.protocol.name,
            n=len(self.items) - failures.failed,
            failed=failures.failed,
            reasons=failures.reasons,
            rate_unit=trial.RATE_UNITS[modality],
            rates={kind: values.summary() for kind, values in self.rates.items()},
            tokens=self.tokens.summary(),
            tokens_unit=trial.TOKEN_UNITS[modality],
            bits_per_token={kind: values.summary() for kind, values in self.per_token.items()},
            metrics={name: values.summary() for name, values in self.values.items()},
            modelled=self.modelled,
            codebooks=self.counts.summary(),
            idempotence=self.idempotence.summary(),
            time=self._timing(),
            items=self.items,
        )

    def _timing(self) -> Timing:
        return Timing(
            encode=self.encode_seconds,
            decode=self.decode_seconds,
            encode_speed=self.amount / self.encode_seconds if self.encode_seconds else None,
            decode_speed=self.amount / self.decode_seconds if self.decode_seconds else None,
            speed_unit=f"{trial.AMOUNTS[self.entry.modality]} per second",
            device=devices.describe(self.entry.codec.device),
        )


def measure(metric: Metric, item: Item, done: Trial) -> Value:
    """Return the value of a metric on an item, or the reason why it is missing."""
    return trial.attempt(
        lambda: float(metric.function(item.signal, done.output, **_sample_rate(item), **metric.settings))
    )


def _sample_rate(item: Item) -> dict[str, int]:
    """Return the additional argument of audio metrics."""
    return {"sample_rate": item.sample_rate} if item.modality is Modality.AUDIO else {}
