"""Codecs whose tokens are the bytes of a file: one codebook of 256 entries, and varying lengths.

The tokens of `image/jpeg` are the bytes of a `.jpg` file, as in JPEG-LM (Han et al., arXiv 2408.08459).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import batches
from .codec import Codec
from .types import Codes


def pack(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Join integer rows to indices (batch, 1, longest) int64, with 0 after the end of a row, and lengths (batch,)."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return batches.join([row.long()[None, None] for row in rows]), lengths


def unpack(codes: Codes) -> list[Tensor]:
    """Return the rows that `pack` joined, on the CPU."""
    assert codes.lengths is not None  # `pack` made them
    return [row[0, :length].cpu() for row, length in zip(codes.indices, codes.lengths.tolist(), strict=True)]


class NativeCodec(Codec):
    """Codec whose codes are files. A subclass converts one signal; this class handles batches and tokens."""

    def to_bytes(self, signal: Tensor, setting: Any) -> bytes:
        """Write one signal (channels, *size) to the bytes of a file."""
        raise NotImplementedError

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        """Read the signal (channels, *size) of a file. Raises ValueError if the bytes are not such a file."""
        raise NotImplementedError

    def _encode(self, x: Tensor, setting: Any) -> Codes:
        files = [self.to_bytes(signal.detach().cpu(), setting) for signal in x]
        indices, lengths = pack([torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files])
        sizes = torch.tensor([tuple(x.shape[2:])] * len(files), dtype=torch.int64)
        return Codes(indices, sizes, lengths).to(x.device)

    def _decode(self, codes: Codes) -> Tensor:
        files = [row.to(torch.uint8).numpy().tobytes() for row in unpack(codes)]
        sizes = [tuple(size) for size in codes.sizes.tolist()]
        signals = [self.from_bytes(data, size)[None] for data, size in zip(files, sizes, strict=True)]
        return batches.join(signals).to(codes.indices.device)
