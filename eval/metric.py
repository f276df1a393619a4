"""Metrics with their settings, protocols, and values over the items of a set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tokenloom import lazy
from tokenloom.codecs.types import Modality

from .serialize import to_plain

scipy = lazy.load("scipy")


@dataclass
class MetricDescription:
    """A metric as it is stored with the values. `better` is "higher" or "lower"."""

    label: str
    unit: str
    better: str
    definition: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label} {self.unit}".strip()


@dataclass
class ProtocolDescription:
    """A protocol as it is stored with the values."""

    name: str
    modality: str
    about: str
    common: dict[str, str]
    metrics: dict[str, MetricDescription]


@dataclass(frozen=True)
class Metric:
    """One number about an original and its reconstruction; `name` is its key in files, `label` its name in tables."""

    name: str
    label: str
    unit: str
    higher: bool
    """Whether a higher value is better."""
    definition: str
    function: Callable[..., Any]
    """Called with (reference, output, **settings); for audio also with sample_rate in Hz."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything that changes the number."""
    set_level: bool = False
    """Whether `function` returns an object for a whole set, with `update` (called like a function) and `value()`."""
    missing: Callable[[], str | None] = lambda: None
    """Returns why the metric cannot be computed on this machine, or None."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def describe(self) -> MetricDescription:
        """Return the metric as plain values."""
        better = "higher" if self.higher else "lower"
        return MetricDescription(self.label, self.unit, better, self.definition, to_plain(dict(self.settings)))


@dataclass(frozen=True)
class Protocol:
    """A named, frozen set of metrics with their settings for one modality. Its name is stored with every value."""

    name: str
    modality: Modality
    about: str
    common: Mapping[str, str]
    metrics: tuple[Metric, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "common", MappingProxyType(dict(self.common)))

    def describe(self) -> ProtocolDescription:
        """Return the protocol as plain values."""
        metrics = {metric.name: metric.describe() for metric in self.metrics}
        return ProtocolDescription(self.name, str(self.modality), self.about, dict(self.common), metrics)

    def __str__(self) -> str:
        lines = [f"protocol {self.name} ({self.modality}): {self.about}"]
        lines += [f"  {key}: {value}" for key, value in self.common.items()]
        for metric in self.metrics:
            settings = ", ".join(f"{k}={v}" for k, v in metric.settings.items())
            lines.append(f"  {metric.label}: {metric.definition}" + (f" [{settings}]" if settings else ""))
        return "\n".join(lines)


@dataclass
class Summary:
    """Values of one metric over the items of a set."""

    mean: float | None = None
    """Of the finite values; None without any."""
    std: float | None = None
    """With n − 1; None for fewer than two values."""
    ci95: float | None = None
    """Half the width of the 95 % interval of the mean, from Student's t."""
    n: int = 0
    """Number of finite values."""
    perfect: int = 0
    """Number of items whose value is infinite, such as the PSNR of identical images."""
    failed: int = 0
    """Number of items without a value."""
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The mean; inf if every item with a value is perfect; None without a value."""
        return math.inf if self.mean is None and self.perfect else self.mean


class ItemValues:
    """Collects the values of one metric over items, and the reasons of items without one."""

    def __init__(self) -> None:
        self.values: list[float | None] = []
        self.reasons: Counter[str] = Counter()

    def add(self, value: float) -> None:
        """Add a value. +inf is a perfect score; NaN and −inf count as failures."""
        if math.isnan(value) or value == -math.inf:
            return self.fail("the metric gave no number")
        self.values.append(float(value))

    def fail(self, reason: str) -> None:
        """Count an item without a value."""
        self.values.append(None)
        self.reasons[reason] += 1

    def summary(self) -> Summary:
        """Return mean and spread over the items so far."""
        finite = [v for v in self.values if v is not None and math.isfinite(v)]
        n = len(finite)
        mean = math.fsum(finite) / n if n else None
        std = math.sqrt(math.fsum((v - mean) ** 2 for v in finite) / (n - 1)) if n > 1 else None
        return Summary(
            mean,
            std,
            None if std is None else std / math.sqrt(n) * student(n - 1),
            n,
            sum(v == math.inf for v in self.values),
            sum(v is None for v in self.values),
            dict(self.reasons),
        )


def student(degrees: int) -> float:
    """Return the 97.5 % point of Student's t distribution."""
    return float(scipy.special.stdtrit(degrees, 0.975))
