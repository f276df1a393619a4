"""Batches of items with unequal sizes: join codes, crop and pad signals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from .layers import tracing
from .types import CodecInterface, Codes


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
    return Codes(indices, torch.cat([part.sizes for part in parts]), torch.cat(lengths) if lengths else None, side,
                 parts[0].spec, parts[0].origin)  # fmt: skip


default_collate_fn_map[Codes] = lambda batch, **_: collate(batch)  # for DataLoader; the documented way to extend it


def by_size(codes: Codes, codec: CodecInterface, most: float = math.inf) -> Iterator[tuple[Tensor, Codes]]:
    """Yield the rows and the codes of items of one size, without padding, so that each decodes as if it were alone.

    A batch has at most `most` samples, or one item.
    """
    sizes, which = codes.sizes.cpu().unique(dim=0, return_inverse=True)
    for number, size in enumerate(map(tuple, sizes.tolist())):
        rows = (which == number).nonzero()[:, 0]
        for some in rows.split(int(max(1, min(most / max(1, math.prod(size)), len(rows))))):
            yield some, _without_padding(codes, some.to(codes.indices.device), size, codec)


def _without_padding(codes: Codes, rows: Tensor, size: tuple[int, ...], codec: CodecInterface) -> Codes:
    lengths = None if codes.lengths is None else codes.lengths[rows]
    grid = codec.spec.grid(size) if lengths is None else (int(lengths.max()),)
    indices = codes.indices[rows][(..., *map(slice, grid))]
    shapes = codec.side_shapes(size)
    side = {key: value[rows][(..., *map(slice, shapes[key]))] for key, value in codes.side.items()}
    return Codes(indices, codes.sizes[rows], lengths, side)


def spread(parts: Iterable[tuple[Tensor, Any]], sizes: Tensor) -> Tensor:
    """Join signals (rows of the batch, signals of these rows) of several sizes, with zeros beyond an item's size."""
    out: Any = None  # a tensor, once the type and channels are known
    for rows, signals in parts:
        if len(rows) == len(sizes):
            return signals
        if out is None:
            out = signals.new_zeros(len(sizes), signals.shape[1], *sizes.amax(0).tolist())
        out[(rows.to(out.device), slice(None), *map(slice, signals.shape[2:]))] = signals
    return out


def crop(signals: Tensor, sizes: Tensor) -> Tensor:
    """Crop (batch, channels, …) to the size of its items, which is the same for all."""
    return signals[(..., *map(slice, sizes[0].tolist()))].contiguous()


def pad_to_stride(x: Tensor, stride: int) -> Tensor:
    """Pad images (batch, channels, height, width) at the bottom and right to whole strides by replicating the edge."""
    if tracing.exporting():
        return tracing.pad_by_index(tracing.pad_by_index(x, 2, stride), 3, stride)
    bottom, right = -x.shape[2] % stride, -x.shape[3] % stride
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
