"""Storage types of the weights in `model.safetensors`: float32, float16, or int8 with a scale per row."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor

STORES = ("float32", "float16", "int8")
SCALE = ":scale"
"""Suffix of the tensor with the scales of an int8 tensor, one scale per row of the first axis."""
SMALLEST = 4096
"""Numbers of the smallest tensor that is stored as int8. Norms and biases are stored as float16."""


def narrow(state: dict[str, Tensor], store: str, parameters: Collection[str]) -> dict[str, Tensor]:
    """Convert a state dict to a storage type. A second round trip does not change the tensors.

    Args:
        state: Float32 and int64 tensors.
        store: "float32"; "float16"; or "int8": symmetric int8 with a scale per row for large `parameters`, float16 for
            all other tensors, such as codebooks.
        parameters: Names of the tensors that train by gradient.

    Raises:
        ValueError: If `store` is not one of STORES.

    Source: Jacob et al., arXiv 1712.05877, without zero points.
    """
    if store not in STORES:
        raise ValueError(f"store must be one of {', '.join(STORES)}, got {store!r:.80}")
    if store == "float32":
        return state
    out = {}
    for name, value in state.items():
        if not value.is_floating_point():
            out[name] = value
        elif store == "int8" and name in parameters and value.ndim > 1 and value.numel() >= SMALLEST:
            # a scale of 8 significant bits: its products with 7-bit integers are exact in float32
            scale = (value.abs().amax(tuple(range(1, value.ndim)), keepdim=True) / 127).bfloat16()
            steps = value / scale.float().clamp_min(torch.finfo(torch.float32).tiny)
            out[name], out[name + SCALE] = steps.round().clamp(-127, 127).to(torch.int8), scale
        else:
            half = value.half()
            out[name] = half if torch.isfinite(half).all() else value
    return out


def widen(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the result of `narrow` back to float32. Raises ValueError if a scale does not match its tensor."""
    scales = {name: value for name, value in state.items() if name.endswith(SCALE)}
    out = {name: value for name, value in state.items() if name not in scales}
    for name, scale in scales.items():
        name = name.removesuffix(SCALE)
        if name not in out or scale.shape != (*out[name].shape[:1], *(1,) * (out[name].ndim - 1)):
            raise ValueError(f"the scale of {name} does not match its shape")
        out[name] = out[name].float() * scale.float()
    return out


def digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values in hex, in the order of the names."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
