"""Packing of symbols into bytes, within 32 bits of their nominal size.

Symbols are digits of numbers in mixed radix. Many numbers grow side by side, one in each lane. Before a digit that
would need more than 63 bits, every lane gives its lowest 16 bits to the payload. The bound of the numbers follows from
the radices alone and is the same in all lanes, so nothing else is stored:

    words of 16 bits | one integer, which joins the numbers left in the lanes with the digits that fill no further step

The bound is rounded up at each word, which costs log2(1 + 2^-28) bits or less for radices up to 2^20.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from .. import rate
from ..types import BitstreamError

JOINED = 512
"""Up to so many digits are joined to one integer, without lanes."""
LANES = 128
"""Lanes of few digits. Of many, there are more."""
WORD, GROWING, LEFT = 16, 63, 31
"""Bits of a word, of a number that grows, and of a number left in its lane."""


def pack(symbols: np.ndarray, radices: tuple[int, ...]) -> bytes:
    """Pack symbols (quantizers, positions) into at most nominal + 32 bits. Row q is in [0, radices[q])."""
    steps, lanes = _shape(symbols.shape[1], len(radices))
    counts, bound = _schedule(radices, steps)
    words = np.empty((sum(counts), lanes), "<u2")
    row, numbers = 0, np.zeros(lanes, np.uint64)
    for digits, radix, count in zip(_rows(symbols, steps, lanes), radices * steps, counts[:-1], strict=True):
        row = _give(numbers, words, row, count)
        numbers *= np.uint64(radix)
        numbers += digits.view(np.uint64)
    _give(numbers, words, row, counts[-1])
    rest = symbols[:, steps * lanes :].T.reshape(-1)
    bases = _bases(bound, lanes, radices, rest.size // len(radices))
    return words.tobytes() + _join(np.concatenate([numbers.view(np.int64), rest]), bases)


def unpack(data: bytes, radices: tuple[int, ...], positions: int) -> np.ndarray:
    """Return the symbols that `pack` packed, int64 (quantizers, positions). Raises BitstreamError on other bytes."""
    nominal_bytes = positions * rate.bits_per_position(radices) / 8
    if abs(len(data) - nominal_bytes) > 5:
        raise BitstreamError(f"{positions} positions take about {nominal_bytes:.0f} bytes, the payload has {len(data)}")
    steps, lanes = _shape(positions, len(radices))
    counts, bound = _schedule(radices, steps)
    bases = _bases(bound, lanes, radices, positions - steps * lanes)
    row, size = sum(counts), sum(counts) * lanes * WORD // 8
    if len(data) != size + _bytes(bases):
        raise BitstreamError(f"{positions} positions take {size + _bytes(bases)} bytes, the payload has {len(data)}")
    words = np.frombuffer(data, "<u2", row * lanes).reshape(row, lanes)
    left = _split(data[size:], bases)
    symbols = np.empty((len(radices), positions), np.int64)
    symbols[:, steps * lanes :] = left[lanes : lanes + symbols[:, steps * lanes :].size].reshape(-1, len(radices)).T
    numbers = left[:lanes].view(np.uint64)
    row = _take(numbers, words, row, counts[-1])
    rows = [*zip(_rows(symbols, steps, lanes), radices * steps, counts[:-1], strict=True)]
    for digits, radix, count in reversed(rows):
        quotients = numbers // np.uint64(radix)
        np.subtract(numbers, quotients * np.uint64(radix), out=digits.view(np.uint64))
        numbers = quotients
        row = _take(numbers, words, row, count)
    if numbers.any():
        raise BitstreamError("the payload has an index beyond its codebook")
    return symbols


def _shape(positions: int, quantizers: int) -> tuple[int, int]:
    """Return the number of steps and of lanes. A step adds the digits of one position to each lane."""
    if positions * quantizers <= JOINED:
        return 0, 0
    steps = -(-positions // max(LANES, 2 * math.isqrt(positions * quantizers)))
    return steps, positions // steps


def _rows(symbols: np.ndarray, steps: int, lanes: int) -> list[np.ndarray]:
    """Return views of the digits, int64 (lanes,), in the order in which they are added."""
    return [row[step * lanes :][:lanes] for step in range(steps) for row in symbols]


@functools.lru_cache(8)
def _schedule(radices: tuple[int, ...], steps: int) -> tuple[list[int], int]:
    """Return the words that each lane gives before each digit and after the last, and the bound of what is left."""
    bound, counts = 1, []
    for radix, bits in [*((radix, GROWING) for radix in radices * steps), (1, LEFT)]:
        count = 0
        while bound * radix > 1 << bits:
            bound, count = -(-bound >> WORD), count + 1
        counts.append(count)
        bound *= radix
    return counts, bound


def _give(numbers: np.ndarray, words: np.ndarray, row: int, count: int) -> int:
    """Move the lowest words of the numbers to `words`, from this row on. Return the row after them."""
    for place in range(row, row + count):
        words[place] = numbers  # wraps
        numbers >>= np.uint64(WORD)
    return row + count


def _take(numbers: np.ndarray, words: np.ndarray, row: int, count: int) -> int:
    """Move words back into the numbers, from before this row on. Return the row of the last one."""
    for place in reversed(range(row - count, row)):
        numbers <<= np.uint64(WORD)
        numbers |= words[place]
    return row - count


# -- one integer ----------------------------------------------------------------------------------


@functools.lru_cache(8)
def _bases(bound: int, lanes: int, radices: tuple[int, ...], positions: int) -> list[np.ndarray]:
    """Return the radices of what is joined, (power of two,) padded with 1, and the radices after each joining.

    They are int64 up to 62 bits, then Python's integers.
    """
    count = lanes + positions * len(radices)
    base = np.ones(1 << max(0, count - 1).bit_length(), dtype=np.int64)
    base[:lanes] = bound
    base[lanes:count] = np.tile(np.array(radices, dtype=np.int64), positions)
    bases = [base]
    while (last := bases[-1]).size > 1:
        joined = last if last.dtype == object or int(last.max()) < 2**31 else last.astype(object)
        bases.append(joined[0::2] * joined[1::2])
    return bases


def _bytes(bases: list[np.ndarray]) -> int:
    return ((int(bases[-1][0]) - 1).bit_length() + 7) // 8


def _join(digits: np.ndarray, bases: list[np.ndarray]) -> bytes:
    """Join neighboring digits (a, b) of radices (r, s) to the digit a·s + b of radix r·s, until one is left."""
    values = np.zeros(bases[0].size, dtype=np.int64)
    values[: digits.size] = digits
    for base, joined in itertools.pairwise(bases):
        values = values.astype(joined.dtype, copy=False)
        values = values[0::2] * base[1::2] + values[1::2]
    return int(values[0]).to_bytes(_bytes(bases), "little")


def _split(data: bytes, bases: list[np.ndarray]) -> np.ndarray:
    """Return the digits of an integer, int64 (power of two,)."""
    value = int.from_bytes(data, "little")
    if value >= int(bases[-1][0]):
        raise BitstreamError("the payload has an index beyond its codebook")
    values = np.array([value], dtype=bases[-1].dtype)
    for base, joined in reversed([*itertools.pairwise(bases)]):
        values = values.astype(joined.dtype, copy=False)
        split = np.empty(base.size, dtype=joined.dtype)
        split[0::2] = values // base[1::2]
        split[1::2] = values - split[0::2] * base[1::2]
        values = split
    return values.astype(np.int64)
