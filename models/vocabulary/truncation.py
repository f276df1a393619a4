"""Completion of documents whose last segment is cut off."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from . import streams
from .id_space import END
from .vocabulary import Vocabulary


def complete(vocabulary: Vocabulary, prompt: Tensor, new: Tensor) -> Tensor:
    """Return the document of a prompt and its sampled ids, changed so that the last segment decodes.

    If the context ended within a segment, a warning reports it. The segment gets its END if that is allowed. Else
    audio is shortened to whole positions, and an image to whole rows. An empty segment is left out.
    """
    ids = torch.cat([prompt, new])
    state = vocabulary.read(ids)
    if state.between_segments or state.stopped:
        return ids
    begin = int(((ids >= vocabulary.begin) & (ids < vocabulary.digit)).nonzero().max())
    channel, layout = state.channel, state.layout
    assert channel is not None and layout is not None  # the document ends within a segment
    warnings.warn(f"the context ended within a segment of {channel.name}, which is shortened", stacklevel=2)
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
    """The largest size whose codes are among the first `positions` of `grid`, in row-major order."""
    row = math.prod(grid[1:])
    if positions >= row:
        return min(size[0], positions // row * stride[0]), *size[1:]
    return (min(size[0], stride[0]), min(size[1], positions * stride[1])) if positions else None
