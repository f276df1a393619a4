"""How weights lie in `model.safetensors`: as they are, or in fewer bits."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

STORES = ("float32", "float16", "int8")
SCALE = ":scale"
"""Suffix of the tensor that holds the scale of an 8-bit one, one number a row of its first axis."""
SMALLEST = 4096
"""Tensors of fewer numbers are not worth 8 bits: norms and biases."""


def narrow(state: dict[str, Tensor], store: str, parameters: Collection[str]) -> dict[str, Tensor]:
    """A state dict as it is written.

    store       float32; float16; or int8, which takes 8 bits for the large `parameters`, symmetric and
                scaled by row (Jacob et al., arXiv 1712.05877, without zero points), and float16 for the
                rest, codebooks included
    parameters  names of what training moves by gradients
    Reading and storing again changes nothing. ValueError for another `store`.
    """
    if store not in STORES:
        raise ValueError(f"store {store!r} is none of {STORES}")
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
    """Return the float32 tensors that `narrow` was given, as precisely as they were kept."""
    scales = {name: value for name, value in state.items() if name.endswith(SCALE)}
    out = {name: value for name, value in state.items() if name not in scales}
    for name, scale in scales.items():
        name = name.removesuffix(SCALE)
        if name not in out or scale.ndim != out[name].ndim or scale.shape[0] != out[name].shape[0]:
            raise ValueError(f"the scale of {name} does not fit it")
        out[name] = out[name].float() * scale.float()
    return out
