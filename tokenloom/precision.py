"""Computation in float32, whatever type a caller sets as the default of PyTorch or converts a module to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_lock = threading.Lock()
_users = 0
_default = torch.float32


@contextmanager
def float32() -> Iterator[None]:
    """Make float32 the default type of PyTorch inside the block. Also works as a decorator.

    All threads share the default type, so the last one to leave its block restores the caller's.
    """
    global _users, _default
    with _lock:
        if _users == 0:
            _default = torch.get_default_dtype()
            _restore(torch.float32)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _restore(_default)


def _restore(dtype: torch.dtype) -> None:
    if torch.get_default_dtype() is not dtype:
        torch.set_default_dtype(dtype)


@contextmanager
def building() -> Iterator[None]:
    """Build and load modules as usual, in float32, inside `torch.inference_mode` too. Also works as a decorator."""
    with float32(), torch.inference_mode(False):
        yield


class Float32Module(nn.Module):
    """Module that keeps its weights in float32: `half()` and the like, also of an enclosing module, only move it.

    Rounded weights would change the codes, and with them the meaning of every stored file.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Module:
        def keep(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            rounds = changed.is_floating_point() and changed.dtype not in (torch.float32, tensor.dtype)
            return tensor.to(changed.device) if rounds else changed

        return super()._apply(keep, recurse)

    def require_float32(self, name: str) -> None:
        """Raise ValueError if a part of the module was converted to another type."""
        for key, weight in self.named_parameters():
            if weight.is_floating_point() and weight.dtype is not torch.float32:
                raise ValueError(
                    f"the weights of {name} must be float32, got {weight.dtype} in {key}; load it again, or convert it "
                    "with .float()"
                )
