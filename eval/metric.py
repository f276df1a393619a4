"""What a figure is: a metric with its settings, its spread over items, and what was left out and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tokenloom.codecs.types import Modality


@dataclass(frozen=True)
class Metric:
    """One number about an original and its reconstruction.

    function   called with (reference, output, **settings); audio also gets sample_rate in Hz
    settings   all that changes the number; printed, stored, and passed to `function` as they are
    higher     whether more is better
    set_level  `function` makes an object with `update`, called like a function above, and `value()`: one number a set
    missing    why it cannot be computed on this machine, or None
    """

    name: str
    label: str
    unit: str
    higher: bool
    definition: str
    function: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    set_level: bool = False
    missing: Callable[[], str | None] = lambda: None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def describe(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "unit": self.unit,
            "better": "higher" if self.higher else "lower",
            "definition": self.definition,
            "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in self.settings.items()},
        }


@dataclass(frozen=True)
class Protocol:
    """A named, frozen set of metric settings for one modality; its name is stored with every figure."""

    name: str
    modality: Modality
    about: str
    common: Mapping[str, str]
    metrics: tuple[Metric, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "common", MappingProxyType(dict(self.common)))

    def describe(self) -> dict[str, Any]:
        """Plain values, for JSON and print."""
        return {
            "name": self.name,
            "modality": str(self.modality),
            "about": self.about,
            "common": dict(self.common),
            "metrics": {metric.name: metric.describe() for metric in self.metrics},
        }

    def __str__(self) -> str:
        lines = [f"protocol {self.name} ({self.modality}): {self.about}"]
        lines += [f"  {key}: {value}" for key, value in self.common.items()]
        for metric in self.metrics:
            settings = ", ".join(f"{k}={v}" for k, v in metric.settings.items())
            lines.append(f"  {metric.label}: {metric.definition}" + (f" [{settings}]" if settings else ""))
        return "\n".join(lines)


class Series:
    """The values of one figure over the items of a set, those that failed included."""

    def __init__(self) -> None:
        self.values: list[float | None] = []
        self.reasons: Counter[str] = Counter()

    def add(self, value: float) -> None:
        """A value; +inf is a perfect score without a finite value; NaN is a failure."""
        if math.isnan(value) or value == -math.inf:
            return self.fail("the metric gave no number")
        self.values.append(float(value))

    def fail(self, reason: str) -> None:
        self.values.append(None)
        self.reasons[reason] += 1

    def summary(self) -> dict[str, Any]:
        """mean, std (n − 1), ci95 (half width, Student's t), n, perfect, failed, reasons.

        The mean is over the n finite values. `perfect` counts items whose value is infinite
        (PSNR of an identical picture): where all are perfect, mean is None and perfect > 0.
        """
        finite = [v for v in self.values if v is not None and math.isfinite(v)]
        n = len(finite)
        mean = math.fsum(finite) / n if n else None
        std = math.sqrt(math.fsum((v - mean) ** 2 for v in finite) / (n - 1)) if n > 1 else None
        return {
            "mean": mean,
            "std": std,
            "ci95": None if std is None else std / math.sqrt(n) * _student(n - 1),
            "n": n,
            "perfect": sum(v == math.inf for v in self.values),
            "failed": sum(v is None for v in self.values),
            "reasons": dict(self.reasons),
        }


def _student(degrees: int) -> float:
    """The 97.5 % point of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))
