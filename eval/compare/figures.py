"""The figures of one codec at one setting, gathered item by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenloom.data import Item
from tokenloom.metrics.errors import Unmeasurable
from tokenloom.metrics.tokens import CodeCounts, same_share

from .. import trial
from ..metric import Metric, Protocol, Series
from ..serialize import to_plain
from ..trial import Trial
from .entries import Contestant
from .results import KINDS

Value = float | str
"""A number, or the reason why there is none."""


@dataclass(frozen=True)
class Outcome:
    """What one item gave: a trial with its metric values, or the reason of a failure."""

    item: Item
    trial: Trial | None = None
    values: dict[str, Value] | None = None
    idempotence: float | None = None
    reason: str = ""


class Figures:
    """Accumulates one record: every rate, metric and count of (codec, setting) over a set."""

    def __init__(self, contestant: Contestant, setting: Any, protocol: Protocol, absent: dict[str, str]) -> None:
        self.contestant, self.setting, self.protocol = contestant, setting, protocol
        self.metrics = [m for m in protocol.metrics if m.name not in absent]
        self.set_level = {m.name: m.function(**m.settings) for m in self.metrics if m.set_level}
        self.series = {m.name: Series() for m in self.metrics}
        self.rates, self.per_token = {k: Series() for k in KINDS}, {k: Series() for k in KINDS}
        self.tokens, self.idempotence = Series(), Series()
        self.counts = CodeCounts(contestant.codec.spec.codebook_sizes)
        self.encode_seconds = self.decode_seconds = self.amount = 0.0
        self.items: list[dict[str, Any]] = []
        self.failures = Series()
        self.modelled: dict[str, Any] | None = None

    def attempt(self, item: Item) -> Outcome:
        """Run the codec on one item and measure; a failing codec is an outcome, not an end."""
        try:
            codec = self.contestant.fitted(item)
            done = trial.run(codec, item, self.setting)
            # of a file's bytes next to none come back equal, and another pass would double the time
            again = codec.encode(done.decoded, self.setting) if codec.spec.total else None
        except Exception as error:  # whatever a third party's codec raises is its failure on this item
            return Outcome(item, reason=one_line(error))
        values = {m.name: measure(m, item, done) for m in self.metrics if not m.set_level}
        return Outcome(item, done, values, None if again is None else same_share(done.codes, again))

    def add(self, outcome: Outcome) -> None:
        """Take an outcome into account."""
        item, done = outcome.item, outcome.trial
        if done is None:
            self.failures.fail(outcome.reason)
            self.items.append({"key": item.key, "failed": outcome.reason})
            return
        for kind in KINDS:
            if done.rates.get(kind) is not None:
                self.rates[kind].add(done.rates[kind])
                self.per_token[kind].add(done.bits[kind] / done.tokens if done.tokens else math.nan)
        for name, value in outcome.values.items():
            self.series[name].add(value) if isinstance(value, float) else self.series[name].fail(value)
        for state in self.set_level.values():
            state.update(item.signal, done.output, **_rate(item))
        size = trial.amount(item)
        self.tokens.add(done.tokens / size if self.contestant.modality == "audio" else done.tokens)
        if outcome.idempotence is not None:
            self.idempotence.add(outcome.idempotence)
        self.counts.update(done.codes)
        self.encode_seconds += done.encode_seconds
        self.decode_seconds += done.decode_seconds
        self.amount += size
        values = {name: "inf" if value == math.inf else value for name, value in outcome.values.items()}
        self.items.append(
            {"key": item.key, "bytes": len(done.data), "tokens": done.tokens, **done.rates, **values}
            | {"idempotence": outcome.idempotence}
            | {"encode_seconds": done.encode_seconds, "decode_seconds": done.decode_seconds}
        )

    def model(self, facts: dict[str, Any], trials: Sequence[Trial], bits: Sequence[float]) -> None:
        """The modelled bits of all that was added, in that order, and what they were found with."""
        self.modelled = facts
        entries = (entry for entry in self.items if "failed" not in entry)
        for done, cost, entry in zip(trials, bits, entries, strict=bool(trials)):
            entry["modelled"] = cost * done.rates["coded"] / done.bits["coded"]  # the unit of the modality
            self.rates["modelled"].add(entry["modelled"])
            self.per_token["modelled"].add(cost / done.tokens if done.tokens else math.nan)

    def record(self, set_name: str) -> dict[str, Any]:
        """The record as plain values."""
        for name, state in self.set_level.items():
            self.series[name] = series = Series()
            try:
                series.add(state.value())
            except Unmeasurable as reason:
                series.fail(str(reason))
        failures = self.failures.summary()
        codec, modality = self.contestant.codec, self.contestant.modality
        return {
            "codec": self.contestant.label,
            "kind": codec.name,
            "learned": self.contestant.learned,
            "parameters": sum(p.numel() for p in codec.parameters()),
            "modality": str(modality),
            "set": set_name,
            "setting_name": codec.settings.name,
            "setting": self.setting,
            "default": self.setting == codec.settings.default,
            "protocol": self.protocol.name,
            "n": len(self.items) - failures["failed"],
            "failed": failures["failed"],
            "reasons": failures["reasons"],
            "rate_unit": trial.RATE_UNITS[modality],
            "rates": {kind: series.summary() for kind, series in self.rates.items()},
            "tokens": self.tokens.summary(),
            "tokens_unit": trial.TOKEN_UNITS[modality],
            "bits_per_token": {kind: series.summary() for kind, series in self.per_token.items()},
            "metrics": {name: series.summary() for name, series in self.series.items()},
            "modelled": self.modelled,
            "codebooks": to_plain(self.counts.summary()),
            "idempotence": self.idempotence.summary(),
            "time": self._time(),
            "items": self.items,
        }

    def _time(self) -> dict[str, Any]:
        """Wall seconds of the whole set, and the speed: how much signal per second."""
        speeds = {
            "encode_speed": self.amount / self.encode_seconds if self.encode_seconds else None,
            "decode_speed": self.amount / self.decode_seconds if self.decode_seconds else None,
        }
        unit = f"{trial.AMOUNTS[self.contestant.modality]} per second"
        return {"encode": self.encode_seconds, "decode": self.decode_seconds, **speeds, "speed_unit": unit}


def measure(metric: Metric, item: Item, done: Trial) -> Value:
    """One metric on one item: its value, or the reason why there is none."""
    try:
        return float(metric.function(item.signal, done.output, **_rate(item), **metric.settings))
    except Unmeasurable as reason:
        return str(reason)


def _rate(item: Item) -> dict[str, int]:
    """What audio metrics are told beside the signals."""
    return {"sample_rate": item.sample_rate} if item.modality == "audio" else {}


def one_line(error: Exception) -> str:
    """An exception as one line: its message, and its type where it is not a plain ValueError."""
    message = " ".join(str(error).split())
    return message if type(error) is ValueError and message else f"{type(error).__name__}: {message}".rstrip(": ")
