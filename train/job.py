"""What the loop knows of a task: a model to train, batches to train it on, and what to do with it then."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .config import TrainConfig

if TYPE_CHECKING:
    from .adversarial.adversary import Adversary


class Job(ABC):
    """One task of a run, built from its config; a constructor raises ValueError for what a user can get wrong.

    model     what is trained, averaged and saved
    counted   names of buffers of the model that the average keeps its own values of
    trained   what the checkpoint tells of the training, beside its steps
    """

    model: nn.Module
    counted: tuple[str, ...] = ()
    trained: dict[str, Any]

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg = cfg

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Plain values that a resumed run has to share with the one it continues, beside those of `check.FIXED`."""

    def start(self) -> None:
        """Before the first step of a fresh run, the same in all processes."""
        return

    def adversary(self, fabric: Any) -> Adversary | None:
        """What takes part in the training from outside, after `model` is on its device."""
        return None

    @abstractmethod
    def module(self, adversary: Adversary | None) -> nn.Module:
        """forward(batch) → (loss, every term by name), over `model`."""

    @abstractmethod
    def batches(self, *, start_step: int, steps: int, rank: int, world_size: int) -> Iterable[tuple[int, Tensor]]:
        """(step, batch) for the steps start_step … steps − 1; rows are items, shared out among the ranks."""

    @abstractmethod
    def fill(self, model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
        """Strict loading; ValueError in one line."""

    @abstractmethod
    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        """Figures on what is not trained on, by name; something to look at in `samples`."""

    def complete(self, model: nn.Module, device: torch.device) -> None:
        """Once the last step is done: what a finished model has beside its weights."""
        return

    @abstractmethod
    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        """`model.safetensors` and `config.yaml`, in the form that `load` reads."""
