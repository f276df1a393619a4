"""One item's codes ↔ the order in which a transformer reads them, and sizes ↔ digits."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

PATTERNS = ("raster", "delay")
BASE = 128
"""A digit of a size holds 7 bits; BASE is added where another digit follows."""


def order(grid: tuple[int, ...], quantizers: int, pattern: str) -> Tensor:
    """(tokens, 2) int64: the position (row-major in `grid`) and the quantizer of each token.

    raster  positions in row-major order, the quantizers of a position one after the other
    delay   by position + quantizer, then quantizer: the delay pattern of MusicGen (Copet et al.,
            arXiv 2306.05284) written as one row; what it fills with padding is left out
    Every (position, quantizer) comes once and after the coarser quantizers of its position.
    Raises ValueError for another pattern, a negative axis, no quantizer.
    """
    return torch.stack(_order(_checked(grid, quantizers, pattern), quantizers, pattern), 1)


def flatten(indices: Tensor, pattern: str) -> tuple[Tensor, Tensor]:
    """(quantizers, *grid) int64 → the codes in the pattern's order and the quantizer of each, both (tokens,) int64."""
    if indices.ndim < 2:
        raise ValueError(f"indices of one item are (quantizers, *grid), not of shape {tuple(indices.shape)}")
    grid = _checked(tuple(indices.shape[1:]), indices.shape[0], pattern)
    position, quantizer = (part.to(indices.device) for part in _order(grid, indices.shape[0], pattern))
    return indices.flatten(1)[quantizer, position], quantizer.clone()


def unflatten(codes: Tensor, grid: tuple[int, ...], quantizers: int, pattern: str) -> Tensor:
    """(tokens,) in the pattern's order → (quantizers, *grid): the inverse of `flatten`.

    Raises ValueError unless there are exactly prod(grid) · quantizers codes.
    """
    grid = _checked(grid, quantizers, pattern)
    if tuple(codes.shape) != (math.prod(grid) * quantizers,):
        raise ValueError(
            f"a grid of {grid} with {quantizers} quantizers has {math.prod(grid) * quantizers} codes, "
            f"not {tuple(codes.shape)}"
        )
    position, quantizer = (part.to(codes.device) for part in _order(grid, quantizers, pattern))
    indices = codes.new_empty(quantizers, math.prod(grid))
    indices[quantizer, position] = codes
    return indices.reshape(quantizers, *grid)


def varint(n: int) -> list[int]:
    """A size as digits of base 128, the high digit first; a digit that another follows has 128 added."""
    if n < 0:
        raise ValueError(f"{n} is no size: sizes are not negative")
    digits = [n % BASE]
    while n := n // BASE:
        digits.append(n % BASE + BASE)
    return digits[::-1]


def unvarint(digits: Sequence[int]) -> int:
    """The inverse of `varint`; ValueError unless the digits are what it writes for some size."""
    n = 0
    for digit in digits:
        n = n * BASE + digit % BASE
    if not all(0 <= digit < 2 * BASE for digit in digits) or varint(n) != list(digits):
        raise ValueError(f"{list(digits)} are not the digits of one size")
    return n


def _checked(grid: tuple[int, ...], quantizers: int, pattern: str) -> tuple[int, ...]:
    if pattern not in PATTERNS:
        raise ValueError(f"pattern {pattern!r} is none of {', '.join(PATTERNS)}")
    if quantizers < 1 or min(grid, default=0) < 0:
        raise ValueError(f"a grid of {tuple(grid)} with {quantizers} quantizers has no order")
    return tuple(grid)


@functools.lru_cache(maxsize=64)
def _order(grid: tuple[int, ...], quantizers: int, pattern: str) -> tuple[Tensor, Tensor]:
    """Position and quantizer of each token, shared between calls: not to be written to."""
    position = torch.arange(math.prod(grid)).repeat_interleave(quantizers)
    quantizer = torch.arange(quantizers).repeat(math.prod(grid))
    if pattern == "raster":
        return position, quantizer
    turn = ((position + quantizer) * quantizers + quantizer).argsort()
    return position[turn], quantizer[turn]
