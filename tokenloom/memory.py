"""The memory that decoding and reading take: estimated, and refused above a limit, before anything is allocated.

The limit is three quarters of the free memory of the machine, the container and the process. The environment variable
TOKENLOOM_MEMORY sets another one, in bytes or with a unit: TOKENLOOM_MEMORY=8GB.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

try:
    import resource
except ImportError:  # Windows
    resource = None

SETTING = "TOKENLOOM_MEMORY"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
SHARE = 0.75
"""Share of the free memory that is the limit by default."""
UNKNOWN = 2**33
"""Free memory of a system that does not tell it."""
SMALL = 2**20
"""Most samples of a call whose memory is not estimated."""
BATCH = 2**30
"""Most bytes of the working memory of a batch of several items."""
SCRATCH = 4
"""Working memory relative to the input and output of the largest module."""


class MemoryLimitError(ValueError):
    """A signal that takes more memory to decode than the limit allows."""


def limit(device: torch.device) -> int:
    """Return the largest number of bytes that a call may take on a device.

    Raises:
        ValueError: If TOKENLOOM_MEMORY is not a positive number with an optional unit.
    """
    if given := os.environ.get(SETTING):
        match = re.fullmatch(r"([0-9.]+(?:E[0-9]+)?) ?([KMGT]I?)?B?", given.strip().upper())
        try:
            value = int(float(match[1]) * UNITS[match[2] or ""]) if match else 0
        except (ValueError, OverflowError):
            value = 0
        if value < 1:
            raise ValueError(f"{SETTING} must be a number of bytes, such as 8GB or 500MB, got {given!r:.80}")
        return value
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * _free())


class Decoder(Protocol):
    """A codec, or a decoder in its place."""

    @property
    def spec(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    def working_memory(self, size: tuple[int, ...]) -> int: ...


def require(decoder: Decoder, sizes: Sequence[tuple[int, ...]]) -> None:
    """Check the memory that decoding signals of these sizes in one call takes: the result and the working memory.

    The result has the largest size along each axis for every item.

    Raises:
        MemoryLimitError: If it exceeds the limit.
    """
    if not decoder.spec.channels or _padded(sizes) <= SMALL:
        return
    spec = decoder.spec
    codes = len(sizes) * 8 * len(spec.codebook_sizes) * math.prod(spec.grid(_largest(sizes))) if spec.stride else 0
    needed = 4 * spec.channels * _padded(sizes) + codes + max(map(decoder.working_memory, sizes))
    if needed > (most := limit(decoder.device)):
        raise MemoryLimitError(
            f"decoding {len(sizes)} signal{'s' * (len(sizes) > 1)} of up to {' x '.join(map(str, _largest(sizes)))} "
            f"samples must take at most {_text(most)} of memory, got about {_text(needed)}; decode fewer at once, or "
            f"set {SETTING}={_text(needed, '')}"
        )


def require_values(count: int, each: int, what: str) -> None:
    """Raise MemoryLimitError if `count` values of `each` bytes exceed the limit of the CPU. Few values always pass."""
    if count > SMALL and count * each > (most := limit(torch.device("cpu"))):
        raise MemoryLimitError(
            f"{what} must take at most {_text(most)} of memory, got about {_text(count * each)}; it can be set by "
            f"{SETTING}={_text(count * each, '')}"
        )


def batch_samples(decoder: Decoder, sizes: Sequence[tuple[int, ...]]) -> float:
    """Return the most samples of a batch of several items; inf for a small call."""
    if sum(map(math.prod, sizes)) <= SMALL:
        return math.inf
    one = max(sizes, key=math.prod)
    return BATCH * math.prod(one) / max(1, decoder.working_memory(one))


def _largest(sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(max, zip(*sizes, strict=True)))


def _padded(sizes: Sequence[tuple[int, ...]]) -> int:
    return len(sizes) * math.prod(_largest(sizes))


def _text(count: float, space: str = " ") -> str:
    return f"{count / 1e9:.3g}{space}GB" if count >= 1e9 else f"{math.ceil(count / 1e6)}{space}MB"


# -- the memory of a network ----------------------------------------------------------------------


def per_sample(codec: Any, network: nn.Module, decode: Callable[[Any], Any]) -> float:
    """Return the working memory per sample of `decode`, which uses a network, measured on a small signal of a codec."""
    spec = codec.spec
    size = tuple(4 * stride for stride in spec.stride) or ((64, 64) if spec.modality == "image" else (64,))
    codes = codec.encode(torch.zeros(1, spec.channels, *size, device=codec.device))
    return _peak(network, lambda: decode(codes)) / math.prod(size)


def _peak(network: nn.Module, function: Callable[[], Any]) -> int:
    """Estimate the most bytes that a computation takes at once, from the largest input and output of its modules."""
    most, thread = 0, threading.get_ident()

    def record(_: nn.Module, given: Any, result: Any) -> None:
        nonlocal most
        if threading.get_ident() == thread:
            found = {id(t): t.nbytes for t in tree_leaves((given, result)) if isinstance(t, Tensor)}
            most = max(most, sum(found.values()))

    hooks = [module.register_forward_hook(record) for module in network.modules()]
    try:
        function()
    finally:
        for hook in hooks:
            hook.remove()
    return SCRATCH * most


# -- the memory of the machine --------------------------------------------------------------------


def _free() -> int:
    """Return the bytes that this process can still allocate."""
    found = [_machine(), *_containers()]
    if resource is not None and (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        pages = _numbers("/proc/self/statm")[:1] or [0]
        found.append(most - pages[0] * resource.getpagesize())
    return max(0, min(found))


def _machine() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return UNKNOWN


def _containers() -> list[int]:
    """Return the free memory of the control groups of this process, as in a container or a job of a cluster."""
    own = next((line[3:].strip() for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "/")
    folders = {f"/sys/fs/cgroup{own}".rstrip("/"): ("memory.max", "memory.current", "inactive_file")}
    folders["/sys/fs/cgroup"] = folders[f"/sys/fs/cgroup{own}".rstrip("/")]
    folders["/sys/fs/cgroup/memory"] = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    found = []
    for folder, (most, used, cache) in folders.items():
        if limits := _numbers(f"{folder}/{most}"):
            reclaimable = [int(v) for k, v in map(str.split, _lines(f"{folder}/memory.stat")) if k == cache]
            found.append(limits[0] - sum(_numbers(f"{folder}/{used}")) + sum(reclaimable))
    return found


def _numbers(path: str) -> list[int]:
    return [int(word) for line in _lines(path) for word in line.split() if word.isdecimal()]


def _lines(path: str) -> list[str]:
    """Return the lines of a file of the kernel; none if it does not exist."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
