"""The moving average of the weights, whole or sharded over the processes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from . import state


class WeightAverage:
    """The exponential moving average of a model, which a run saves. Buffers in `counted` are not copied."""

    def __init__(self, model: nn.Module, decay: float, fabric: Any, sharded: bool, counted: tuple[str, ...]) -> None:
        self.decay, self.fabric, self.counted = decay, fabric, counted
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.complete: nn.Module | None = None
        """The whole model that `collect` fills, on the process that writes; None without shards."""
        self._sharded = sharded

    def place(self) -> None:
        """Move the average to the devices, and shard it if the run does. Call it once, after a restore."""
        if not self._sharded:
            self.module.to(self.fabric.device)
            return
        self.complete = copy.deepcopy(self.module) if self.fabric.is_global_zero else None
        self.module = state.shard(self.module, self.fabric.strategy.device_mesh["data_parallel"])

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow the model. The decay is smaller in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(state.local(self.module.parameters()), state.local(model.parameters()), 1 - decay)
        for (name, buffer), source in zip(self.module.named_buffers(), model.buffers(), strict=True):
            if name not in self.counted:
                buffer.copy_(source)

    @torch.no_grad()
    def restore_buffers(self, model: nn.Module) -> None:
        """Reset the buffers of the model to their values at the last update."""
        for buffer, source in zip(model.buffers(), self.module.buffers(), strict=True):
            buffer.copy_(source)

    def collect(self) -> nn.Module | None:
        """Return the whole average in eval mode on the process that writes, else None. All processes must call it."""
        if not self._sharded:
            return self.module.eval() if self.fabric.is_global_zero else None
        tensors = state.collect(self.module.state_dict(), keep=self.complete is not None)
        if self.complete is None:
            return None
        self.complete.load_state_dict(tensors)
        return self.complete.to(self.fabric.device).eval()

    def release(self) -> None:
        """Free the device memory of a collected average."""
        if self.complete is not None:
            self.complete.cpu()
