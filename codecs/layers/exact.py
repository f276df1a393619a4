"""Codes that do not depend on how they are computed, and large signals in blocks.

Rounding in float32 depends on the shape of a batch, on threads, on the layout in memory and on the processor. It moves
latents by less than a millionth of the longest one, and changes a code wherever a latent lies that close to the border
between two. Quantizers find these rare positions. Their codes are computed again in float64, from the part of the
signal that they depend on. Rounding is 10^9 times smaller there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenloom import devices, precision

from ..types import Codes
from . import spans
from .spans import Reach
from .tracing import Traceable


def indices(codec: Traceable, x: Tensor, setting: Any) -> Tensor:
    """Encode signals (batch, channels, *size) to int64 indices (batch, quantizers, *grid), large ones in blocks."""
    if not codec.invariant:
        return codec.encode_indices(x, setting)
    stride, ones = codec.spec.stride, (1,) * (x.ndim - 2)
    return spans.bounded(lambda part: settled(codec, part, setting), x, lambda: codec.encoder_reach, stride, ones)


def signals(codec: Traceable, codes: Codes) -> Tensor:
    """Decode codes of one size to float32 signals, not cropped or clamped, large ones in blocks."""

    def synthesize(part: Tensor) -> Tensor:
        return codec.synthesize(codec._embed(Codes(part, codes.sizes, codes.lengths, codes.side))).float()

    if not codec.invariant:
        return synthesize(codes.indices)
    ones = (1,) * (codes.indices.ndim - 2)
    return spans.bounded(synthesize, codes.indices, lambda: codec.decoder_reach, ones, codec.spec.stride)


def settled(codec: Traceable, x: Tensor, setting: Any) -> Tensor:
    """Encode signals at once."""
    return settle(codec, *codec.decide(codec.analyze(x), setting), x, setting)


def settle(codec: Traceable, found: Tensor, doubt: Tensor, x: Tensor, setting: Any, twin: Any = None) -> Tensor:
    """Return indices whose doubtful positions are computed in float64.

    Args:
        codec: The codec.
        found: Indices of `x` (batch, quantizers, *grid).
        doubt: Positions to compute, bool (batch, *grid).
        x: Signals (batch, channels, *size).
        setting: The setting of the indices.
        twin: `in_float64(codec)`; None to make it where it is needed.
    """
    if not doubt.any():
        return found
    twin, found, device = twin or in_float64(codec), found.clone(), devices.with_float64(x.device)
    for item in doubt.flatten(1).any(1).nonzero()[:, 0].tolist():
        signal, places = x[item : item + 1].to(device), doubt[item].nonzero()
        if _few(places, codec.encoder_reach, doubt.shape[1:]):
            for place in places.tolist():
                index = twin.search(twin.analyze_at(signal, place), setting)
                found[(item, slice(None), *place)] = index.flatten().to(found.device)
        else:
            exact = twin.search(twin.analyze(signal.double()), setting)[0].to(found.device)
            found[item] = found[item].where(~doubt[item], exact)
    return found


def _few(places: Tensor, reach: Reach | None, grid: Sequence[int]) -> bool:
    """Return whether computing some places takes less than computing all."""
    return reach is not None and len(places) * math.prod(1 + sum(around) for around in reach) < math.prod(grid)


@precision.building()
def in_float64(codec: Traceable) -> Any:
    """Return a copy of a codec that encodes in float64. It shares the modules that encoding does not use."""
    _ = codec.encoder_reach  # measured in float32, and copied
    children = dict(codec.named_children())
    names = codec.analysis if children.keys() >= set(codec.analysis) else tuple(children)
    shared = {id(module): module for name, module in children.items() if name not in names}
    twin = copy.deepcopy(codec, shared)
    place = devices.with_float64(codec.device)
    for name in names:
        twin.get_submodule(name).to(place, torch.float64)
    for name, buffer in twin.named_buffers(recurse=False):
        setattr(twin, name, buffer.to(place, torch.float64 if buffer.is_floating_point() else buffer.dtype))
    return twin
