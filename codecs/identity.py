"""The fingerprint of a codec: 8 bytes of the SHA-256 of its name, configuration and weights.

A fingerprint is never stale. PyTorch's version counters miss changes through NumPy, `.data` and `inference_mode`, so
the CRC-32 of all weights decides whether the hash is computed again. It takes a fraction of the time of an encoding.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tokenloom import errors

from .types import CodecInterface

Named = list[tuple[str, Tensor]]


class Identity:
    """Computes the fingerprint of one codec and remembers it until a weight changes."""

    def __init__(self) -> None:
        self._derived: Any = None
        self._known: tuple[Any, bytes] | None = None

    def settle(self, codec: Any) -> None:
        """Record the buffers that follow from the configuration. Until they change, they are not hashed."""
        self._derived = _checksums(_tensors(codec)[1])

    def fingerprint(self, codec: CodecInterface) -> bytes:
        """Return the fingerprint."""
        weights, derived = _tensors(codec)
        if self._derived is None:
            self._derived = _checksums(derived)
        given = json.dumps([codec.name, codec.config], sort_keys=True, default=str)
        key = (given, _checksums(weights), changed := _checksums(derived))
        if self._known is None or self._known[0] != key:
            digest = hashlib.sha256(given.encode())
            for name, value in weights if changed == self._derived else weights + derived:
                digest.update(name.encode())
                value = _plain(name, value)
                value = value.float() if value.is_floating_point() else value.long()
                digest.update(value.contiguous().numpy().tobytes())
            self._known = (key, digest.digest()[:8])
        return self._known[1]


def _tensors(codec: Any) -> tuple[Named, Named]:
    """Return the state dict as tensors, and the buffers that are not in it."""
    state = codec.state_dict()
    weights = [(name, _as_tensor(leaf)) for name, value in state.items() for leaf in tree_leaves(value)]
    return weights, [(name, value) for name, value in codec.named_buffers() if name not in state]


def _as_tensor(value: Any) -> Tensor:
    """Return a tensor as it is, and the text of another value, such as those of `get_extra_state`."""
    return value if isinstance(value, Tensor) else torch.frombuffer(bytearray(repr(value).encode()), dtype=torch.uint8)


def _checksums(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[Any, ...]]:
    """Return name, layout and CRC-32 of each tensor. Dense tensors are read in the order of memory, without a copy."""
    found = []
    for name, value in tensors:
        if value.is_meta:  # built to be described; it holds no data
            continue
        value = _plain(name, value)
        axes = sorted(range(value.ndim), key=value.stride, reverse=True)
        memory = value.permute(axes).contiguous().reshape(-1).view(torch.uint8).numpy()
        found.append((name, value.dtype, tuple(value.shape), value.stride(), zlib.crc32(memory.data)))
    return found


def _plain(name: str, value: Tensor) -> Tensor:
    """Return a tensor as a dense one on the CPU. Raises ValueError if it holds no data."""
    try:
        value = value.detach().cpu()
        value = value.dequantize() if value.is_quantized else value
        return (value if value.layout is torch.strided else value.to_dense()).resolve_conj().resolve_neg()
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"the weight {name} cannot be read: {errors.first_line(error)}") from error
