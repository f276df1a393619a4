"""The order in which a transformer reads one item's codes, and sizes as digits."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

PATTERNS = ("raster", "delay")
BASE = 128
"""A digit of a size holds 7 bits; BASE is added to every digit but the last."""


def order(grid: tuple[int, ...], quantizers: int, pattern: str) -> Tensor:
    """Return the position and the quantizer of each token, int64 (tokens, 2).

    Each (position, quantizer) comes once, after the coarser quantizers of its position.

    Args:
        grid: Number of positions along each axis; positions are numbered in row-major order.
        quantizers: Number of quantizers.
        pattern: "raster" sorts by position, then quantizer. "delay" sorts by position + quantizer, then quantizer: the
            delay pattern of MusicGen (Copet et al., arXiv 2306.05284) without its padding.

    Raises:
        ValueError: If the pattern is unknown, an axis is negative, or there is no quantizer.
    """
    return torch.stack(_order(_check(grid, quantizers, pattern), quantizers, pattern), 1)


def flatten(indices: Tensor, pattern: str) -> tuple[Tensor, Tensor]:
    """Return the codes of (quantizers, *grid) in the pattern's order and their quantizers, both int64 (tokens,)."""
    if indices.ndim < 2:
        raise ValueError(f"indices of one item must have the shape (quantizers, *grid), got {tuple(indices.shape)}")
    grid = _check(tuple(indices.shape[1:]), indices.shape[0], pattern)
    position, quantizer = (part.to(indices.device) for part in _order(grid, indices.shape[0], pattern))
    return indices.flatten(1)[quantizer, position], quantizer.clone()


def unflatten(codes: Tensor, grid: tuple[int, ...], quantizers: int, pattern: str) -> Tensor:
    """Return codes (tokens,) as (quantizers, *grid): the inverse of `flatten`.

    Raises:
        ValueError: If there are not exactly prod(grid) · quantizers codes.
    """
    grid = _check(grid, quantizers, pattern)
    if tuple(codes.shape) != (math.prod(grid) * quantizers,):
        raise ValueError(
            f"a grid of {grid} with {quantizers} quantizers has {math.prod(grid) * quantizers} codes, "
            f"got {tuple(codes.shape)}"
        )
    position, quantizer = (part.to(codes.device) for part in _order(grid, quantizers, pattern))
    indices = codes.new_empty(quantizers, math.prod(grid))
    indices[quantizer, position] = codes
    return indices.reshape(quantizers, *grid)


def varint(n: int) -> list[int]:
    """Return a size as digits of base 128, the high digit first. 128 is added to every digit but the last."""
    if n < 0:
        raise ValueError(f"a size must be at least 0, got {n}")
    digits = [n % BASE]
    while n := n // BASE:
        digits.append(n % BASE + BASE)
    return digits[::-1]


def _check(grid: tuple[int, ...], quantizers: int, pattern: str) -> tuple[int, ...]:
    if pattern not in PATTERNS:
        raise ValueError(f"the pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")
    if quantizers < 1 or any(n < 0 for n in grid):
        raise ValueError(
            f"axes must be at least 0 and quantizers at least 1, got a grid of {tuple(grid)}, {quantizers} quantizers"
        )
    return tuple(grid)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _order(grid: tuple[int, ...], quantizers: int, pattern: str) -> tuple[Tensor, Tensor]:
    """Position and quantizer of each token. The cache shares both tensors: do not write to them."""
    position = torch.arange(math.prod(grid)).repeat_interleave(quantizers)
    quantizer = torch.arange(quantizers).repeat(math.prod(grid))
    if pattern == "raster":
        return position, quantizer
    turn = ((position + quantizer) * quantizers + quantizer).argsort()
    return position[turn], quantizer[turn]
