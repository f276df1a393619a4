"""Batches of items with unequal sizes: join codes, crop and pad signals."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from .layers import tracing
from .types import Codes, CodeSpec


def join(parts: list[Tensor], fill: float = 0) -> Tensor:
    """Concatenate along the batch, and pad the other axes with `fill` to their largest sizes."""
    shape = [max(axis) for axis in zip(*(part.shape[1:] for part in parts), strict=True)]
    out = parts[0].new_full((sum(map(len, parts)), *shape), fill)
    row = 0
    for part in parts:
        out[(slice(row, row + len(part)), *(slice(n) for n in part.shape[1:]))] = part
        row += len(part)
    return out


def collate(parts: list[Codes]) -> Codes:
    """Join batches. Padding is −1 for unused quantizers, 0 after the last position, NaN for side information."""
    indices = join([part.indices for part in parts])
    row = 0
    for part in parts:
        indices[row : row + len(part), part.indices.shape[1] :] = -1
        row += len(part)
    lengths = [part.lengths for part in parts if part.lengths is not None]
    side = {key: join([part.side[key] for part in parts], math.nan) for key in parts[0].side}
    return Codes(indices, torch.cat([part.sizes for part in parts]), torch.cat(lengths) if lengths else None, side)


default_collate_fn_map[Codes] = lambda batch, **_: collate(batch)  # for DataLoader; the documented way to extend it


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
    """Decode a batch, one by one if sizes differ, with decoders whose output depends on padding."""
    if bool((codes.sizes == codes.sizes[:1]).all()):
        return decode(codes)
    signals = []
    for i, size in enumerate(codes.sizes.tolist()):
        one, grid = codes[i], spec.grid(tuple(size))
        indices = one.indices[(..., *(slice(n) for n in grid))]
        signals.append(decode(Codes(indices, one.sizes, None, one.side)))
    return join(signals)


def pad_to_stride(x: Tensor, stride: int) -> Tensor:
    """Pad images (batch, channels, height, width) at the bottom and right to whole strides by replicating the edge."""
    if tracing.exporting():
        return tracing.pad_by_index(tracing.pad_by_index(x, 2, stride), 3, stride)
    bottom, right = -x.shape[2] % stride, -x.shape[3] % stride
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
