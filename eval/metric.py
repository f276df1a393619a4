"""Metrics, protocols, and statistics of values over the items of a set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tokenloom import lazy
from tokenloom.codecs.types import Modality

from .serialize import to_plain

scipy = lazy.load("scipy", "eval")

NO_NUMBER = "the metric gave no number"
"""Reason of a value that is NaN or −∞."""
PLAIN = (str, int, float, list, tuple, dict, type(None))
"""Types of settings that results files hold as they are."""
Z = 1.959964
"""97.5 % point of the normal distribution."""


@dataclass
class MetricDescription:
    """Description of a metric in results files. `better` is "higher" or "lower"."""

    label: str
    unit: str
    better: str
    definition: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.label} {self.unit}".strip()


@dataclass
class ProtocolDescription:
    """Description of a protocol in results files."""

    name: str
    modality: str
    about: str
    common: dict[str, str]
    metrics: dict[str, MetricDescription]


@dataclass(frozen=True)
class Metric:
    """A measure of a reconstruction. `name` is its key in files, `label` its name in tables."""

    name: str
    label: str
    unit: str
    higher: bool
    """Whether a higher value is better."""
    definition: str
    function: Callable[..., Any]
    """Takes (reference, output, **settings), for audio also sample_rate in Hz."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All arguments that change the value. Results files name an object by its `str`."""
    of_item: tuple[str, ...] = ()
    """Further arguments that the item gives: "caption", or "text", what a picture is known to say."""
    judges_alone: bool = False
    """Whether the value says something of the output alone. Reports then show that of the originals, too."""
    set_level: bool = False
    """Whether the metric belongs to a whole set. `function` then takes the settings and returns an object with
    `features(reference, output)`, a tensor for an item, `add(features)` and `value()`."""
    missing: Callable[[], str | None] = lambda: None
    """Returns the reason why the metric cannot be computed on this machine, or None."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def describe(self) -> MetricDescription:
        """Return the description for results files."""
        better = "higher" if self.higher else "lower"
        settings = {key: value if isinstance(value, PLAIN) else str(value) for key, value in self.settings.items()}
        return MetricDescription(self.label, self.unit, better, self.definition, to_plain(settings))


@dataclass(frozen=True)
class Protocol:
    """Frozen set of metrics with their settings for one modality. Results files name the protocol of every value."""

    name: str
    modality: Modality
    about: str
    common: Mapping[str, str]
    metrics: tuple[Metric, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "common", MappingProxyType(dict(self.common)))

    def describe(self) -> ProtocolDescription:
        """Return the description for results files."""
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
    """Mean of the finite values; None without any."""
    std: float | None = None
    """Standard deviation with n − 1; None for fewer than two values."""
    ci95: float | None = None
    """Half the width of the 95 % interval of the mean, by Student's t."""
    n: int = 0
    """Number of finite values."""
    perfect: int = 0
    """Number of items whose value is infinite, such as the PSNR of identical images."""
    failed: int = 0
    """Number of items without a value."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Reason of a failure → number of items."""

    @property
    def value(self) -> float | None:
        """Mean; inf if all values are infinite; None without a value."""
        return math.inf if self.mean is None and self.perfect else self.mean


class ItemValues:
    """Collects the values of one metric over items, and the reasons of failures."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.values: list[float | None] = []
        self.reasons: Counter[str] = Counter()
        for value in values:
            self.add(value)

    def add(self, value: float) -> None:
        """Add a value. +inf is perfect; NaN and −inf count as failures."""
        if math.isnan(value) or value == -math.inf:
            return self.fail(NO_NUMBER)
        self.values.append(float(value))

    def take(self, value: float | str) -> None:
        """Add a value, or the reason of a failure."""
        self.fail(value) if isinstance(value, str) else self.add(value)

    def fail(self, reason: str) -> None:
        self.values.append(None)
        self.reasons[reason] += 1

    def summary(self) -> Summary:
        """Return the statistics of the values."""
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


def wilson(right: int, n: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a share of `right` in `n` trials (Wilson 1927); None without trials."""
    if not n:
        return None
    share, z2 = right / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
