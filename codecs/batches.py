"""Batches of items with unequal sizes: join codes, crop and pad signals."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .types import Codes, CodeSpec


def collate(parts: list[Codes]) -> Codes:
    """Join batches. Padding is −1 for unused quantizers, 0 after the last position, NaN for side information."""
    quantizers = max(p.indices.shape[1] for p in parts)
    grid = [max(p.indices.shape[axis] for p in parts) for axis in range(2, parts[0].indices.ndim)]
    indices = parts[0].indices.new_zeros(sum(len(p) for p in parts), quantizers, *grid)
    row = 0
    for part in parts:
        block = indices[row : row + len(part)]
        block[:, part.indices.shape[1] :] = -1
        block[(slice(None), slice(part.indices.shape[1]), *(slice(n) for n in part.indices.shape[2:]))] = part.indices
        row += len(part)
    lengths = None if parts[0].lengths is None else torch.cat([p.lengths for p in parts])
    side = {key: _join_side([p.side[key] for p in parts]) for key in parts[0].side}
    return Codes(indices, torch.cat([p.sizes for p in parts]), lengths, side)


def _join_side(values: list[Tensor]) -> Tensor:
    """Join side information. NaN pads items with fewer values."""
    shape = [max(axis) for axis in zip(*(value.shape[1:] for value in values), strict=True)]
    out = values[0].new_full((sum(map(len, values)), *shape), math.nan)
    row = 0
    for value in values:
        out[(slice(row, row + len(value)), *(slice(n) for n in value.shape[1:]))] = value
        row += len(value)
    return out


def crop(signals: Tensor, sizes: Tensor) -> Tensor:
    """Crop (batch, channels, …) to the largest size of the batch, and zero each item beyond its own size."""
    largest = sizes.amax(0).tolist()
    signals = signals[(..., *(slice(n) for n in largest))].contiguous()
    if bool((sizes != sizes[:1]).any()):
        for axis, n in enumerate(largest):
            inside = torch.arange(n, device=sizes.device) < sizes[:, axis, None]
            shape = [len(sizes)] + [1] * (signals.ndim - 1)
            shape[2 + axis] = n
            signals = signals * inside.reshape(shape).to(signals.device)
    return signals


def decode_by_size(decode: Callable[[Codes], Tensor], codes: Codes, spec: CodeSpec) -> Tensor:
    """Decode a batch of images; one by one if sizes differ, for decoders that would let padding influence the image."""
    if bool((codes.sizes == codes.sizes[:1]).all()):
        return decode(codes)
    parts = []
    largest = codes.sizes.amax(0).tolist()
    for item, size in enumerate(codes.sizes.tolist()):
        rows, columns = spec.grid(tuple(size))
        image = decode(Codes(codes.indices[item : item + 1, :, :rows, :columns], codes.sizes[item : item + 1]))
        parts.append(F.pad(image, (0, largest[1] - size[1], 0, largest[0] - size[0])))
    return torch.cat(parts)


def pad_to_stride(x: Tensor, stride: int) -> Tensor:
    """Pad images (batch, channels, height, width) at the bottom and right to whole strides by replicating the edge."""
    bottom, right = -x.shape[2] % stride, -x.shape[3] % stride
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
