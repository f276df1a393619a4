"""Measurement of one codec at one setting, item by item."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from tokenloom import devices
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.metrics.tokens import CodeCounts, Occurrences, occurrences, same_share

from .. import trial
from ..metric import NO_NUMBER, ItemValues, Metric, Protocol
from ..selection import digest
from ..trial import Trial
from .entries import CodecEntry
from .records import KINDS, ModelledRecord, Record, Timing

T = TypeVar("T")
Value = float | str
"""A value, or the reason why it is missing."""
DIGITS = 16
"""Length of the hash of a signal in results files: enough to tell whether two files measured the same items."""


@dataclass(kw_only=True)
class ItemResult:
    """Result of one item at one setting. Its fields can be written as JSON, except `trial`."""

    key: str
    digest: str
    """Hash of the signal."""
    failed: str = ""
    """Reason why the codec failed. The fields below are empty then."""
    size: float = 0.0
    """Size of the signal in the unit of the modality; see `trial.AMOUNTS`."""
    narrowed: str = ""
    """How the codec's sample rate and channels are below those of the item."""
    bytes: int = 0
    tokens: int = 0
    bits: dict[str, float | None] = field(default_factory=dict)
    rates: dict[str, float | None] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    features: dict[str, list[list[float]] | str] = field(default_factory=dict)
    """Metric of a whole set → features of the original and the reconstruction, or the reason why there are none."""
    counts: Occurrences = field(default_factory=list)
    idempotence: Value | None = None
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    metric_seconds: float = 0.0
    seconds_of: dict[str, float] = field(default_factory=dict)
    """Metric → seconds that it took."""
    originals: dict[str, Value] = field(default_factory=dict)
    """Metric that judges an output alone → its value on the original."""
    other_seconds: float = 0.0
    """Time of the trial besides the three others."""
    codes: str = ""
    """Codes as text, for the modelled rate; see `journal.pack`."""
    trial: Trial | None = None
    """None in a result that was read from a file."""

    def seconds(self) -> dict[str, float]:
        """Return how long the parts of the trial took."""
        return {
            "encode": self.encode_seconds,
            "decode": self.decode_seconds,
            "metrics": self.metric_seconds,
            "other": self.other_seconds,
        }


class CodecMeasurement:
    """Collects rates, metrics and counts of one codec at one setting over a set, without the metrics in `absent`."""

    def __init__(self, entry: CodecEntry, setting: Any, protocol: Protocol, absent: dict[str, str]) -> None:
        self.entry, self.setting, self.protocol = entry, setting, protocol
        self.metrics = [m for m in protocol.metrics if m.name not in absent]
        self.set_level = {m.name: m.function(**m.settings) for m in self.metrics if m.set_level}
        self.values = {m.name: ItemValues() for m in self.metrics}
        self.rates, self.per_token = {k: ItemValues() for k in KINDS}, {k: ItemValues() for k in KINDS}
        self.originals = {m.name: ItemValues() for m in self.metrics if m.judges_alone}
        self.seconds_of = {m.name: ItemValues() for m in self.metrics}
        self.tokens, self.idempotence, self.failures = ItemValues(), ItemValues(), ItemValues()
        self.counts = CodeCounts(entry.codec.spec.codebook_sizes)
        self.encode_seconds = self.decode_seconds = self.amount = 0.0
        self.items: list[dict[str, Any]] = []
        self.narrowed: list[str] = []
        self.modelled: ModelledRecord | None = None

    @property
    def name(self) -> str:
        """Label of the codec with the setting."""
        return self.entry.name_at(self.setting)

    def attempt(self, item: Item) -> ItemResult:
        """Code an item and compute its metrics. A failure of the codec becomes a result with a reason."""
        start = time.perf_counter()
        result = ItemResult(key=item.key, digest=digest(item))
        done = trial.attempt(lambda: trial.run(self.entry.codec_for(item), item, self.setting))
        if isinstance(done, trial.Failure):
            result.failed, result.other_seconds = done, time.perf_counter() - start
            return result
        coded = time.perf_counter()
        codec = self.entry.codec_for(item)
        took: dict[str, float] = {}
        features = {
            name: _timed(
                took, name, lambda s=state: trial.attempt(
                    lambda: s.features(item.signal, done.output, **sample_rate(item))
                ),
            )
            for name, state in self.set_level.items()
        }  # fmt: skip
        idempotence = None
        if codec.spec.total:  # else the tokens are the bytes of a file: hardly any would be equal
            idempotence = trial.attempt(lambda: same_share(done.codes, codec.encode(done.decoded, self.setting)))
        single = [m for m in self.metrics if not m.set_level]
        values = {m.name: _timed(took, m.name, lambda m=m: measure(m, item, done.output)) for m in single}
        originals = {m.name: measure(m, item, item.signal) for m in single if m.judges_alone}
        measured = time.perf_counter()
        return replace(
            result,
            size=trial.amount(item),
            narrowed=trial.narrowed(item, codec),
            bytes=len(done.data),
            tokens=done.tokens,
            bits=done.bits,
            rates=done.rates,
            values=values,
            features={name: f if isinstance(f, str) else f.tolist() for name, f in features.items()},
            counts=occurrences(done.codes, 0),
            idempotence=idempotence,
            encode_seconds=done.encode_seconds,
            decode_seconds=done.decode_seconds,
            metric_seconds=measured - coded,
            seconds_of=took,
            originals=originals,
            other_seconds=max(0.0, coded - start - done.encode_seconds - done.decode_seconds),
            trial=done,
        )

    def add(self, result: ItemResult) -> None:
        if result.failed:
            self.failures.fail(result.failed)
            self.items.append({"key": result.key, "digest": result.digest[:DIGITS], "failed": result.failed})
            return
        for kind, bits in result.bits.items():
            if bits is not None:
                self.rates[kind].add(result.rates[kind])
                self.per_token[kind].add(bits / result.tokens if result.tokens else math.nan)
        for name, value in result.values.items():
            self.values[name].take(value)
        for name, pair in result.features.items():
            if isinstance(pair, str):
                self.values[name].fail(pair)
            else:
                self.set_level[name].add(torch.tensor(pair, dtype=torch.float64))
        for name, value in result.originals.items():
            self.originals[name].take(value)
        for name, seconds in result.seconds_of.items():
            self.seconds_of[name].add(seconds)
        audio = self.entry.modality is Modality.AUDIO
        self.tokens.add(result.tokens / result.size if audio else result.tokens)
        if result.idempotence is not None:
            self.idempotence.take(result.idempotence)
        self.counts.add(result.counts)
        self.encode_seconds += result.encode_seconds
        self.decode_seconds += result.decode_seconds
        self.amount += result.size
        if result.narrowed and result.narrowed not in self.narrowed:
            self.narrowed.append(result.narrowed)
        values = {name: "inf" if value == math.inf else value for name, value in result.values.items()}
        left_out = {name: pair for name, pair in result.features.items() if isinstance(pair, str)}
        self.items.append(
            {"key": result.key, "digest": result.digest[:DIGITS], "bytes": result.bytes, "tokens": result.tokens}
            | {**result.rates, **values, **left_out, "idempotence": result.idempotence}
            | {"encode_seconds": result.encode_seconds, "decode_seconds": result.decode_seconds}
        )

    def add_modelled(self, modelled: ModelledRecord, trials: Sequence[ItemResult], bits: Sequence[float]) -> None:
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
            self.values[name].take(trial.attempt(lambda s=state: float(s.value())))
        failures = self.failures.summary()
        codec, modality = self.entry.codec, self.entry.modality
        return Record(
            codec=self.entry.label,
            kind=codec.name,
            learned=self.entry.learned,
            parameters=sum(p.numel() for p in codec.parameters()),
            license=codec.license,
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
            originals={name: values.summary() for name, values in self.originals.items()},
            metric_seconds={k: mean for k, v in self.seconds_of.items() if (mean := v.summary().mean) is not None},
            modelled=self.modelled,
            codebooks=self.counts.summary(),
            idempotence=self.idempotence.summary(),
            time=self._timing(),
            narrowed=self.narrowed,
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


def measure(metric: Metric, item: Item, output: Tensor | str) -> Value:
    """Return the value of a metric on an item and its reconstruction, or the reason why it is missing."""
    known = {"caption": item.caption, "text": item.meta.get("text")}
    arguments = sample_rate(item) | {name: known[name] for name in metric.of_item} | dict(metric.settings)
    value = trial.attempt(lambda: float(metric.function(item.signal, output, **arguments)))
    return NO_NUMBER if isinstance(value, float) and (math.isnan(value) or value == -math.inf) else value


def _timed(took: dict[str, float], name: str, call: Callable[[], T]) -> T:
    """Return the value of a call, and note its seconds under a name."""
    start = time.perf_counter()
    value = call()
    took[name] = time.perf_counter() - start
    return value


def sample_rate(item: Item) -> dict[str, int]:
    """Return the additional argument of audio metrics."""
    return {"sample_rate": item.sample_rate} if item.modality is Modality.AUDIO else {}
