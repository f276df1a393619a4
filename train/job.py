"""The config that all tasks share, and the interface between the training loop and a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenloom.codecs import checkpoint


@dataclass
class OptimizerConfig:
    """AdamW and its schedule."""

    lr: float = 9e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.01
    warmup: int = 200
    final: float = 0.02
    clip: float = 1.0


@dataclass
class RunConfig:
    """See conf/train.yaml for the meaning of each key. A task derives its own config from this class."""

    task: str = "codec"
    data: dict[str, Any] = field(default_factory=dict)
    validation: Any = None  # a mapping; with that type OmegaConf could not set it from the command line
    losses: dict[str, float | None] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    steps: int = 10000
    stop_after: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    max_skips: int = 20
    ema: float = 0.999
    precision: str = "bf16-mixed"
    accelerator: str = "auto"
    strategy: str = "auto"
    workers: int = 0
    out: str = "???"
    resume: bool = False
    log_every: int = 50
    save_every: int = 500
    validate_every: int = 1000
    store: str = "float32"


class TrainingJob(ABC):
    """One run of a task, built from its config. The constructor raises ValueError for a user's mistakes.

    A subclass in a module of `train/tasks` that sets `name` is a task.

    Attributes:
        name: Value of `task` in the config.
        config: Dataclass of the keys that the task reads.
        losses: Names that `losses` may hold.
        architecture: Keys that describe the model. A resumed run must share them.
        fixed: Other keys of the task that a resumed run must share.
        shardable: Whether strategy=fsdp is possible.
        counted: Names of buffers that the averaged model fills by itself.
        model: The module that is trained, averaged and saved.
        trained: What the checkpoint states of the training, besides the steps.
    """

    name: ClassVar[str]
    config: ClassVar[type[RunConfig]]
    losses: ClassVar[tuple[str, ...]] = ()
    architecture: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ()
    shardable: ClassVar[bool] = False
    counted: ClassVar[tuple[str, ...]] = ()

    model: nn.Module
    trained: dict[str, Any]

    def __init__(self, cfg: RunConfig) -> None:
        self.cfg = cfg

    @classmethod
    def check(cls, cfg: RunConfig) -> None:
        """Raise ValueError for mistakes that show without the model and the data."""
        return

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Return plain values that a resumed run must share, besides the fixed keys of the config."""

    def start(self) -> None:
        """Prepare a fresh run before its first step, equally in all processes."""
        return

    def adversary(self, fabric: Any) -> Any:
        """Return an adversary that trains along (see train/adversarial), or None. `model` is on its device."""
        return None

    @abstractmethod
    def module(self, adversary: Any) -> nn.Module:
        """Return a module over `model`: forward(batch) → (loss, every term by name)."""

    @abstractmethod
    def batches(self, *, start_step: int, steps: int, rank: int, world_size: int) -> Iterable[tuple[int, Tensor]]:
        """Iterate over (step, batch) from start_step to steps − 1. The rows are divided among the ranks."""

    def fill(self, model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
        """Load a state dict strictly. Raises ValueError that names `where`."""
        checkpoint.fill(model, tensors, where)

    @abstractmethod
    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        """Return metrics on held-out data by name, and write samples to the folder `samples`."""

    def complete(self, model: nn.Module, device: torch.device) -> None:
        """Add what a finished model has besides its weights. Called after the last step."""
        return

    @abstractmethod
    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        """Write `model.safetensors` and `config.yaml` in the form that `load` reads."""


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
