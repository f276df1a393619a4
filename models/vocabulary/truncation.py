"""Documents whose last segment was cut off, made complete."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from . import streams
from .id_space import END
from .vocabulary import Vocabulary


def complete(vocabulary: Vocabulary, prompt: Tensor, new: Tensor) -> Tensor:
    """Return the document of a prompt and the ids sampled after it, with a last segment that decodes.

    A segment that the context cut off gets its END, or is shortened to what is complete: audio to whole positions,
    an image to whole rows. It is left out if nothing of it is complete. A warning reports it.
    """
    ids = torch.cat([prompt, new])
    state = vocabulary.read(ids)
    if state.between or state.over:
        return ids
    begin = int(((ids >= vocabulary.begin) & (ids < vocabulary.digit)).nonzero().max())
    channel, layout = state.channel, state.layout
    assert channel is not None and layout is not None  # the end is within a segment
    warnings.warn(f"the context ended within a segment of {channel.name}: it is cut", stacklevel=2)
    if END in vocabulary.kinds[state.kind]:
        return torch.cat([ids, torch.tensor([END])])
    spec = channel.codec.spec
    if not spec.stride or not state.count:
        return ids[:begin]
    codes, grid = ids[-state.count :], spec.grid(state.sizes)
    position, quantizer = streams.order(grid, layout.quantizers, channel.pattern)[: state.count].T
    positions = int((quantizer == layout.quantizers - 1).sum())
    size = _size_within(positions, grid, state.sizes, spec.stride)
    if size is None:
        return ids[:begin]
    kept = position < math.prod(spec.grid(size))
    return torch.cat([ids[:begin], vocabulary.header(channel.name, size), codes[kept]])


def _size_within(positions: int, grid: tuple[int, ...], size: tuple[int, ...], stride: tuple[int, ...]) -> tuple | None:
    """The largest size whose grid is covered by the first `positions` positions of `grid` in row-major order."""
    row = math.prod(grid[1:])
    if positions >= row:
        return min(size[0], positions // row * stride[0]), *size[1:]
    return (min(size[0], stride[0]), min(size[1], positions * stride[1])) if positions else None
