"""The two ends of a stream: what a person puts into a prompt → signals, and codes → signals in batches."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tokenloom.codecs import Codec, Codes, Modality, media, rate

from . import streams
from .vocabulary import END, Vocabulary

Segment = str | Tensor | os.PathLike | Image.Image | np.ndarray
"""A text; a picture float32 (3, height, width) in [0, 1]; a sound float32 (channels, samples) in [-1, 1]; a PIL
image; an array as `codecs.read` takes it; or the path of a file (a pathlib.Path: a str is always a text)."""


def modality(segment: Segment) -> Modality:
    """What a segment is; ValueError with what it could have been."""
    if isinstance(segment, str):
        return Modality.TEXT
    if isinstance(segment, os.PathLike):
        return media.modality(segment)
    if isinstance(segment, Image.Image):
        return Modality.IMAGE
    if isinstance(segment, Tensor | np.ndarray) and segment.ndim in (2, 3):
        return Modality.IMAGE if segment.ndim == 3 else Modality.AUDIO
    what = f"{type(segment).__name__} {tuple(segment.shape)}" if hasattr(segment, "shape") else type(segment).__name__
    raise ValueError(
        "a segment is a str, a picture (3, height, width), a sound (channels, samples), a PIL image or a pathlib.Path, "
        f"not {what}"
    )


def signal(segment: Segment, codec: Codec) -> Tensor | str:
    """One segment as the codec takes it, without the batch axis; sounds in files come at the codec's rate."""
    if isinstance(segment, str | Tensor):
        return segment
    spec = codec.spec
    rate = {"sample_rate": spec.sample_rate, "channels": spec.channels} if spec.modality is Modality.AUDIO else {}
    return media.read(segment, spec.modality, **rate)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (3, height, width) → that size, stretched: bicubic, low-pass filtered where it shrinks, clamped."""
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def length(codec: Codec, codes: Codes) -> list[int]:
    """Ids of the segment of each item: BEGIN, the digits of its sizes, its codes, END."""
    axes = 0 if codec.spec.modality is Modality.TEXT else codes.sizes.shape[1]
    digits = [sum(len(streams.varint(n)) for n in size[:axes]) for size in codes.sizes.tolist()]
    ends = 2 - bool(codec.spec.stride)
    return [ends + d + n for d, n in zip(digits, rate.tokens(codec.spec, codes).tolist(), strict=True)]


def batch(items: Sequence[Codes]) -> Codes:
    """Items of one codec, each a batch of one → one batch, zero beyond each item's own codes."""
    shape = [max(axis) for axis in zip(*(item.indices.shape[1:] for item in items), strict=True)]
    indices = items[0].indices.new_zeros(len(items), *shape)
    for row, item in zip(indices, items, strict=True):
        row[tuple(slice(n) for n in item.indices.shape[1:])] = item.indices[0]
    lengths = None if items[0].lengths is None else torch.cat([item.lengths for item in items])
    return Codes(indices, torch.cat([item.sizes for item in items]), lengths)


def decode(codec: Codec, items: Sequence[Codes], most: int) -> list[Tensor | str]:
    """Each item, a batch of one, decoded as if it were alone, in batches of at most `most`.

    What lies beyond an item's own codes reaches into it unless it is text or causal sound: all else shares a batch
    with items of its own size only.
    """
    spec = codec.spec
    together = spec.modality is Modality.TEXT or (spec.modality is Modality.AUDIO and spec.causal)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(() if together else tuple(item.sizes[0].tolist()), []).append(i)
    out: list[Tensor | str | None] = [None] * len(items)
    for rows in (group[at : at + most] for group in groups.values() for at in range(0, len(group), most)):
        codes = batch([items[i] for i in rows])
        signals = codec.decode(codes)
        for i, one, size in zip(rows, signals, codes.sizes.tolist(), strict=True):
            out[i] = one if isinstance(one, str) else one[(slice(None), *(slice(n) for n in size))].clone()
    return out


def closed(vocabulary: Vocabulary, prompt: Tensor, new: Tensor) -> Tensor:
    """A prompt and what was sampled after it → a document whose last segment is whole.

    Where the context ended within a segment, what is there is made to decode: END is set; sounds are cut to the
    samples, pictures to the rows whose codes are complete; a segment that had hardly begun is left out. A warning
    says so.
    """
    ids = torch.cat([prompt, new])
    state = vocabulary.read(ids)
    if state.between or state.over:
        return ids
    begin = int(((ids >= vocabulary.begin) & (ids < vocabulary.digit)).nonzero().max())
    name = state.channel.name
    warnings.warn(f"the context ended within a segment of {name}: it is cut", stacklevel=2)
    if END in vocabulary.kinds[state.kind]:
        return torch.cat([ids, torch.tensor([END])])
    if not state.channel.codec.spec.stride or not state.count:
        return ids[:begin]
    codes = ids[-state.count :]
    grid = state.channel.codec.spec.grid(state.sizes)
    position, quantizer = streams.order(grid, state.part.quantizers, state.channel.pattern)[: state.count].T
    complete = int((quantizer == state.part.quantizers - 1).sum())
    size = _within(complete, grid, state.sizes, state.channel.codec.spec.stride)
    if size is None:
        return ids[:begin]
    kept = position < math.prod(state.channel.codec.spec.grid(size))
    return torch.cat([ids[:begin], vocabulary.header(name, size), codes[kept]])


def _within(complete: int, grid: tuple[int, ...], size: tuple[int, ...], stride: tuple[int, ...]) -> tuple | None:
    """The largest size whose grid is the first `complete` positions, or fewer, of `grid` in row-major order."""
    row = math.prod(grid[1:])
    if complete >= row:
        return min(size[0], complete // row * stride[0]), *size[1:]
    return (min(size[0], stride[0]), min(size[1], complete * stride[1])) if complete else None
