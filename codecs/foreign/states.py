"""State dicts of other projects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from .. import checkpoint

AnyModule = TypeVar("AnyModule", bound=Module)


def tensors(content: Mapping[str, Any], *keys: str) -> dict[str, Tensor]:
    """Return the state dict under the first existing key of `keys`, or at the top if none exists.

    Raises:
        ValueError: If the state dict holds no tensors.
    """
    inner = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), content)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"the checkpoint must hold tensors at its top or under {', '.join(keys)}; it holds none")
    return state


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace weight normalization by plain weights, computed as PyTorch does.

    Both forms become `weight`: `weight_g` and `weight_v`, and `parametrizations.weight.original0` and `…1`.
    Source: Salimans and Kingma, arXiv 1602.07868, eq. 2.
    """
    pairs = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))
    out = dict(state)
    for length, direction in pairs:
        for name in [name for name in state if name.endswith(length)]:
            layer = name.removesuffix(length)
            g, v = out.pop(name), out.pop(layer + direction)
            out[f"{layer}.weight"] = torch._weight_norm(v, g, 0)
    return out


def adopt(codec: AnyModule, state: Mapping[str, Tensor], source: str | Path) -> AnyModule:
    """Load a state dict strictly, converted to the codec's types. `counts` may be missing.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    own = codec.state_dict()
    state = {k: v.to(own[k].dtype) if k in own else v for k, v in state.items()}
    checkpoint.load_state(codec, {**{k: v for k, v in own.items() if k == "counts"}, **state}, source)
    return codec


def sizes(state: Mapping[str, Tensor], names: Iterable[str]) -> list[tuple[int, ...]]:
    """Return the shapes of these tensors. Raises ValueError if one is missing."""
    if absent := [name for name in names if name not in state]:
        raise ValueError(f"the checkpoint lacks {absent[0]}")
    return [tuple(state[name].shape) for name in names]
