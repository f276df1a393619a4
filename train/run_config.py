"""The config of a run that all tasks share, and checks of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class OptimizerConfig:
    """AdamW and its schedule."""

    lr: float = 9e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.01
    warmup: int | None = None
    final: float = 0.02
    clip: float = 1.0


@dataclass
class RunConfig:
    """See conf/train.yaml for the meaning of each key. A task derives its own config from this class."""

    task: str = "codec"
    data: dict[str, Any] = field(default_factory=dict)
    validation: Any = None  # a mapping; Any, so that OmegaConf can set it from the command line
    losses: dict[str, float | None] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    steps: int = 10000
    stop_after: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    max_skips: int = 20
    ema: float = 0.999
    precision: str = "auto"
    device: str = "auto"
    strategy: str = "auto"
    workers: int = 0
    out: str = "???"
    imports: list[str] = field(default_factory=list)
    resume: bool = False
    log_every: int = 50
    save_every: int = 500
    validate_every: int = 1000
    logger: Any = "tensorboard"  # a name or a list
    store: str = "float32"


def betas(key: str, values: Sequence[object]) -> None:
    """Raise ValueError unless two decays of Adam are in range."""
    if len(values) != 2:
        raise ValueError(f"{key} must be two numbers, got {values}")
    for i, beta in enumerate(values):
        number(f"{key}[{i}]", beta, 0, 0.99999)


def number(key: str, value: object, low: float, high: float) -> None:
    """Raise ValueError unless a value is a number in a range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{key} must be between {low:g} and {high:g}, got {value!r}")
