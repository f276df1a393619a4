"""The device that networks compute on."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

AUTO = "auto"


def available() -> list[torch.device]:
    """Return the devices of this machine: the CPU, then its GPUs."""
    found = [torch.device("cpu")]
    if torch.cuda.is_available():
        found += [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps", 0))
    return found


def resolve(name: str | torch.device) -> torch.device:
    """Return a device of this machine.

    Args:
        name: "cpu", "cuda", "mps", one of several GPUs such as "cuda:1", or "auto": the first GPU, else the CPU.

    Raises:
        ValueError: If the name is unknown, or this machine has no such device.
    """
    found = available()
    if name == AUTO:
        return found[1] if len(found) > 1 else found[0]
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is not None and any(device.type == d.type and device.index in (None, d.index or 0) for d in found):
        return device
    known = ", ".join(map(str, found))
    raise ValueError(f"device must be auto or one that PyTorch finds on this machine ({known}), got {str(name)!r}")


@contextmanager
def without_weights() -> Iterator[None]:
    """Build modules on the meta device inside the block: with shapes and types, without memory and values.

    Constants should be computed on the CPU and then moved (see `place`). PyTorch computes with meta tensors in Python,
    and imports its compiler for it, which takes seconds.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leave out the draw of weights, and their scaling."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in (nn.init.normal_, Tensor.normal_, F.normalize):  # the result has the shape of the input
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def place(constant: Tensor) -> Tensor:
    """Return a constant of a module on the device that the module is built on."""
    return constant.to(torch.empty(()).device)


def describe(device: torch.device) -> str:
    """Return a device with the name of its processor, such as "cuda:0 (NVIDIA H200)"."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return f"cuda:{index} ({torch.cuda.get_device_name(index)})"
    return f"{device.type} ({processor()})"


@cache
def processor() -> str:
    """Return the name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line[:10] == "model name"]
        if named:
            return named[0]
    if platform.system() == "Darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all its work, so that a time measured after this call includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def with_float64(device: torch.device) -> torch.device:
    """Return a device that computes in float64: `device` itself, or the CPU if it may have no such type, as MPS."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")
