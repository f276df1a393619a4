"""Payloads of containers of version 1: blocks of neighboring digits, each one integer in mixed radix.

Neighboring digits (a, b) of radices (r, s) were joined to the digit a·s + b of radix r·s, until each block was one
integer. Python divides long integers in quadratic time, and multiplies them not much faster. Long products are
therefore computed by FFT, and a long division is a product with the reciprocal of the divisor (Barrett, 1986), which
Newton's method computes.
"""

from __future__ import annotations

import itertools

import numpy as np

from .. import rate
from ..types import BitstreamError

BLOCKS = 24
"""Most blocks of a payload. A block is one integer in a whole number of bits."""
LONG = 4000
"""Bits of a divisor from which on a product with its reciprocal is faster than a division."""
FFT = 30_000
"""Bits of the shorter factor from which on a product by FFT is faster than Karatsuba's."""
BLOCK_TOKENS = 4096
"""Fewest tokens of a block, unless there are fewer in all."""


def unpack(data: bytes, radices: tuple[int, ...], positions: int) -> np.ndarray:
    """Return the packed symbols, int64 (quantizers, positions). Raises BitstreamError for bytes that pack none."""
    nominal_bytes = positions * rate.bits_per_position(radices) / 8
    if abs(len(data) - nominal_bytes) > 5:
        raise BitstreamError(f"{positions} positions take about {nominal_bytes:.0f} bytes, the payload has {len(data)}")
    bases = _bases(positions, radices)
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
    for base, joined in reversed([*itertools.pairwise(bases)]):
        values = values.astype(joined.dtype)
        split = np.zeros(base.shape, dtype=joined.dtype)
        split[:, 0::2], split[:, 1::2] = _divide(values, base[:, 1::2])
        values = split
    flat = values.reshape(-1)[: positions * len(radices)].astype(np.int64)
    return np.ascontiguousarray(flat.reshape(positions, len(radices)).T)


def _blocks(count: int) -> tuple[int, int]:
    """Return the number of blocks of so many digits, and the digits of a block, a power of two."""
    blocks = min(BLOCKS, -(-count // BLOCK_TOKENS)) or 1
    return blocks, 1 << max(0, (-(-count // blocks) - 1).bit_length())


def _bases(positions: int, radices: tuple[int, ...]) -> list[np.ndarray]:
    """Return the radix of every digit, (blocks, power of two) padded with 1, and the radices after each joining.

    They are int64 up to 62 bits, then Python's integers.
    """
    count = positions * len(radices)
    blocks, width = _blocks(count)
    digits = np.ones(blocks * width, dtype=np.int64)
    digits[:count] = np.tile(np.array(radices, dtype=np.int64), positions)
    bases = [digits.reshape(blocks, width)]
    while (last := bases[-1]).shape[1] > 1:
        joined = last if last.dtype == object or int(last.max()) < 2**31 else last.astype(object)
        bases.append(_multiply(joined[:, 0::2], joined[:, 1::2]))
    return bases


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype != object or int(b.flat[0]).bit_length() < FFT:
        return a * b
    out = np.empty(a.shape, dtype=object)
    known: dict[tuple[int, int], int] = {}  # most blocks have the same radices
    for i, pair in enumerate(zip(a.flat, b.flat, strict=True)):
        known[pair] = out.flat[i] = known[pair] if pair in known else _product(*pair)
    return out


def _product(a: int, b: int) -> int:
    """Return a · b. The digits of the FFT are bytes, so sums of 2^24 products are exact after rounding."""
    if min(a.bit_length(), b.bit_length()) < FFT or max(a.bit_length(), b.bit_length()) >= 2**27:
        return a * b
    digits = [np.frombuffer(n.to_bytes(n.bit_length() // 8 + 1, "little"), np.uint8) for n in (a, b)]
    size = 1 << (len(digits[0]) + len(digits[1]) - 1).bit_length()
    first, second = (np.fft.rfft(one, size) for one in digits)
    sums = np.fft.irfft(first * second, size).round().astype("<i8").view(np.uint8).reshape(size, 8)
    return sum(int.from_bytes(sums[:, k].tobytes(), "little") << 8 * k for k in range(6))


def _divide(values: np.ndarray, divisors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return quotients and remainders. All quotients have at most a few bits more than their divisors."""
    if int(divisors.flat[0]).bit_length() < LONG:
        return values // divisors, values % divisors
    reciprocals: dict[int, tuple[int, int]] = {}  # most blocks have the same divisors
    pairs = []
    for value, divisor in zip(values.flat, divisors.flat, strict=True):
        if divisor & (divisor - 1) == 0:
            pairs.append((value >> divisor.bit_length() - 1, value & divisor - 1))
            continue
        bits, quotient_bits = divisor.bit_length(), max(1, value.bit_length() - divisor.bit_length() + 1)
        if quotient_bits > reciprocals.get(divisor, (0, 0))[0]:
            reciprocals[divisor] = (quotient_bits, _reciprocal(divisor, quotient_bits))
        digits, reciprocal = reciprocals[divisor]
        quotient = _product(value >> bits - 1, reciprocal) >> digits + 1
        remainder = value - _product(quotient, divisor)
        while remainder < 0:
            quotient, remainder = quotient - 1, remainder + divisor
        while remainder >= divisor:
            quotient, remainder = quotient + 1, remainder - divisor
        pairs.append((quotient, remainder))
    both = np.empty((2, *values.shape), dtype=object)
    for i, part in enumerate(zip(*pairs, strict=True)):
        both[i].reshape(-1)[:] = part
    return both[0], both[1]


def _reciprocal(divisor: int, digits: int) -> int:
    """Return 2^(bits of the divisor + digits) / divisor, up to a few units."""
    bits = divisor.bit_length()
    if (spare := bits - digits - 8) > 0:  # lower bits do not change the result
        divisor, bits = divisor >> spare, bits - spare
    if digits < LONG:
        return (1 << bits + digits) // divisor
    half = digits // 2 + 4
    rough = _reciprocal(divisor, half)
    return (rough << digits - half + 1) - (_product(divisor, _product(rough, rough)) >> bits + 2 * half - digits)
