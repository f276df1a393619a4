"""Packing of symbols into mixed-radix integers, within 32 bits of their nominal size."""

from __future__ import annotations

import numpy as np

from .. import rate
from ..types import BitstreamError

BLOCKS = 24
"""Most blocks of a payload. A block is one integer in a whole number of bits."""
BLOCK_TOKENS = 4096
"""Fewest tokens of a block, unless there are fewer in all."""


def pack(symbols: np.ndarray, radices: tuple[int, ...]) -> bytes:
    """Pack symbols (quantizers, positions) into at most nominal + 32 bits. Row q is in [0, radices[q]).

    Neighboring digits (a, b) of radices (r, s) are joined to the digit a·s + b of radix r·s, until each block is one
    integer.
    """
    digits, bases = _digits(symbols.shape[1], radices)
    values = np.zeros(digits.size, dtype=object)
    values[: symbols.size] = symbols.T.reshape(-1).tolist()
    values = values.reshape(digits.shape)
    for base in bases[:-1]:
        values = values[:, 0::2] * base[:, 1::2] + values[:, 1::2]
    bits, total = 0, 0
    for value, radix in zip(values[:, 0], bases[-1][:, 0], strict=True):
        width = (int(radix) - 1).bit_length()
        total |= int(value) << bits
        bits += width
    return total.to_bytes((bits + 7) // 8, "little")


def unpack(data: bytes, radices: tuple[int, ...], positions: int) -> np.ndarray:
    """Return the symbols that `pack` packed, int64 (quantizers, positions). Raises BitstreamError on other bytes."""
    nominal_bytes = positions * rate.bits_per_position(radices) / 8
    if abs(len(data) - nominal_bytes) > 5:
        raise BitstreamError(f"{positions} positions take about {nominal_bytes:.0f} bytes, the payload has {len(data)}")
    _, bases = _digits(positions, radices)
    widths = [(int(r) - 1).bit_length() for r in bases[-1][:, 0]]
    if len(data) != (sum(widths) + 7) // 8:
        raise BitstreamError(f"{positions} positions take {(sum(widths) + 7) // 8} bytes, the payload has {len(data)}")
    total = int.from_bytes(data, "little")
    values = np.zeros((len(widths), 1), dtype=object)
    for block, width in enumerate(widths):
        values[block, 0] = total & ((1 << width) - 1)
        total >>= width
    if total or (values[:, 0] >= bases[-1][:, 0]).any():
        raise BitstreamError("the payload has an index beyond its codebook")
    for base in reversed(bases[:-1]):
        right = base[:, 1::2]
        split = np.zeros(base.shape, dtype=object)
        split[:, 0::2], split[:, 1::2] = values // right, values % right
        values = split
    flat = values.reshape(-1)[: positions * len(radices)].astype(np.int64)
    return np.ascontiguousarray(flat.reshape(positions, len(radices)).T)


def _digits(positions: int, radices: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the radix of every digit, (blocks, power of two) padded with 1, and the radices after each joining."""
    count = positions * len(radices)
    blocks = min(BLOCKS, -(-count // BLOCK_TOKENS)) or 1
    width = 1 << max(0, (-(-count // blocks) - 1).bit_length())
    digits = np.ones(blocks * width, dtype=object)
    digits[:count] = np.tile(np.array(radices, dtype=object), positions)
    digits = digits.reshape(blocks, width)
    bases = [digits]
    while bases[-1].shape[1] > 1:
        bases.append(bases[-1][:, 0::2] * bases[-1][:, 1::2])
    return digits, bases
