"""The interface between the training loop and a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenloom.codecs import checkpoint
from tokenloom.registry import Registry

from .run_config import RunConfig


class TrainingJob(ABC):
    """One run of a task, built from its config. The constructor raises ValueError for a user's mistakes.

    The decorator `register` makes a subclass a task.

    Attributes:
        name: Value of `task` in the config, set by `register`.
        config: Dataclass of the keys that the task reads.
        losses: Names that `losses` may hold.
        architecture: Keys that describe the model. A resumed run must share them.
        fixed: Other keys of the task that a resumed run must share.
        shardable: Whether strategy=fsdp is possible.
        counted: Names of buffers that `complete` fills, so the average does not copy them.
        model: The module that is trained, averaged and saved.
        trained: Facts about the training that the checkpoint records, besides the steps.
    """

    name: ClassVar[str]
    config: ClassVar[type[RunConfig]]
    losses: ClassVar[Sequence[str]] = ()
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
        """Raise ValueError for mistakes that need neither model nor data to be found."""
        return

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Return plain values that a resumed run must share, besides the fixed keys of the config."""

    def start(self) -> None:
        """Prepare a fresh run before its first step. All processes call it and must get the same result."""
        return

    def adversary(self, fabric: Any) -> Any:
        """Return the adversary of the run (see train/adversarial), or None. `model` is on its device."""
        return None

    @abstractmethod
    def module(self, adversary: Any) -> nn.Module:
        """Return a module over `model`: forward(batch) → (loss, every term by name)."""

    @abstractmethod
    def batches(self, *, start_step: int, steps: int, rank: int, world_size: int) -> Iterable[tuple[int, Tensor]]:
        """Iterate over (step, batch) from start_step to steps − 1. The rows are divided among the ranks."""

    def fill(self, model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
        """Load a state dict strictly. A ValueError names `where`."""
        checkpoint.load_state(model, tensors, where)

    @abstractmethod
    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        """Return metrics on held-out data by name, and write samples to the folder `samples`."""

    def complete(self, model: nn.Module, device: torch.device) -> None:
        """Fill the buffers of a finished model, such as counts of codes. Called after the last step."""
        return

    @abstractmethod
    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        """Write `model.safetensors` and `config.yaml` in the form that `load` reads."""


TASKS: Registry[type[TrainingJob]] = Registry("task")
register = TASKS.register
"""Decorator of a subclass of TrainingJob: `tokenloom train task=name` runs it."""
