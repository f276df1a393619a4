"""Payloads of containers of version 1, which nothing else writes any more."""

from __future__ import annotations

import numpy as np

from tokenloom.codecs.bitstream import version1


def pack_blocks(symbols: np.ndarray, radices: tuple[int, ...]) -> bytes:
    """Pack blocks of mixed-radix integers digit by digit."""
    digits = [(int(v), r) for column in symbols.T for v, r in zip(column, radices, strict=True)]
    blocks = min(version1.BLOCKS, -(-len(digits) // version1.BLOCK_TOKENS)) or 1
    width = 1
    while width * blocks < len(digits):
        width *= 2
    bits = ""
    for block in range(blocks):
        value, product = 0, 1
        for digit, radix in digits[block * width : (block + 1) * width]:
            value, product = value * radix + digit, product * radix
        length = (product - 1).bit_length()
        bits = (f"{value:0{length}b}" if length else "") + bits
    return int(bits or "0", 2).to_bytes(-(-len(bits) // 8), "little")
