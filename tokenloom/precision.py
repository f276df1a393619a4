"""Computation in float32, whatever a caller sets as the default type or precision of PyTorch or converts modules to."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_lock = threading.Lock()
_users = 0
_before: list[tuple[Any, str, Any]] = []
"""The caller's settings: object, attribute and value."""


@contextmanager
def float32() -> Iterator[None]:
    """Make float32 the default type, and its products and convolutions exact, inside the block. Also a decorator.

    `torch.set_float32_matmul_precision("medium")` and its like round factors to bfloat16 or TF32, which changes codes.
    All threads share these settings, so the last one to leave its block restores the caller's.
    """
    global _users, _before
    with _lock:
        if _users == 0:
            _before = list(_change(_exact()))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                list(_change(_before))


class _Default:
    """The default type of PyTorch, as an attribute."""

    dtype = property(lambda _: torch.get_default_dtype(), lambda _, dtype: torch.set_default_dtype(dtype))


def _exact() -> Iterator[tuple[Any, str, Any]]:
    yield _Default(), "dtype", torch.float32
    cpu, gpu, products = torch.backends.mkldnn, torch.backends.cudnn, torch.backends.cuda.matmul
    operations = [(cpu, "matmul"), (cpu, "conv"), (cpu, "rnn"), (gpu, "conv")]
    if hasattr(cpu, "matmul"):  # PyTorch 2.9 and later
        for owner in (products, *(getattr(owner, name) for owner, name in operations)):
            yield owner, "fp32_precision", "ieee"
    else:
        yield products, "allow_tf32", False
        yield gpu, "allow_tf32", False


def _change(settings: Iterable[tuple[Any, str, Any]]) -> Iterator[tuple[Any, str, Any]]:
    """Change settings, and yield those that they replace."""
    for owner, name, value in settings:
        if (replaced := getattr(owner, name)) != value:
            setattr(owner, name, value)
            yield owner, name, replaced


@contextmanager
def building() -> Iterator[None]:
    """Build and load modules as usual, in float32, inside `torch.inference_mode` too. Also works as a decorator."""
    with float32(), torch.inference_mode(False):
        yield


@functools.cache
def bfloat16_speed(device: torch.device) -> float:
    """Return how many times faster a device computes in bfloat16 than in float32.

    A CPU is measured in about 50 ms, on a small convolution and its gradient. Without instructions for bfloat16 it may
    be a hundred times slower. A GPU that has them is taken as twice as fast, and other devices as equally fast.
    """
    if device.type != "cpu":
        return 2.0 if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else 1.0
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for trial in range(6):
        for dtype, best in seconds.items():
            x, weight = (
                torch.ones(shape, dtype=dtype, requires_grad=True) for shape in ((4, 32, 8, 8), (32, 32, 3, 3))
            )
            began = time.perf_counter()
            F.conv2d(x, weight, padding=1).sum().backward()
            if trial:  # the first one chooses the kernels
                seconds[dtype] = min(best, time.perf_counter() - began)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def widen(x: Tensor) -> Tensor:
    """Return numbers in float32; those in float64 stay, for codecs that compute in it (codecs/layers/exact.py)."""
    return x if x.dtype == torch.float64 else x.float()


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
