"""Product codes: one index of a large codebook ↔ several smaller indices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..types import Codes, CodeSpec
from .base import MAX_CODEBOOK


def factors(entries: int) -> tuple[int, ...]:
    """Return the sizes of one or two codebooks whose product is `entries`, as equal as possible, the smaller first.

    Raises:
        ValueError: If the larger size exceeds `MAX_CODEBOOK`.
    """
    if entries <= MAX_CODEBOOK:
        return (entries,)
    small = next(n for n in itertools.count(math.isqrt(entries), -1) if entries % n == 0)
    if entries // small > MAX_CODEBOOK:
        raise ValueError(f"a codebook of {entries} entries must be a product of two of at most {MAX_CODEBOOK}")
    return small, entries // small


def level_products(levels: Sequence[int]) -> tuple[int, ...]:
    """Split consecutive scalar levels into the fewest codebooks, of about as many levels each. Return their sizes.

    Raises:
        ValueError: If a level exceeds `MAX_CODEBOOK`.
    """
    for parts, _ in enumerate(levels, 1):
        bounds = [round(i * len(levels) / parts) for i in range(parts + 1)]
        sizes = tuple(math.prod(levels[a:b]) for a, b in itertools.pairwise(bounds))
        if max(sizes) <= MAX_CODEBOOK:
            return sizes
    raise ValueError(f"a level must be at most {MAX_CODEBOOK}, got {levels!r:.80}")


def split(index: Tensor, sizes: Sequence[int]) -> Tensor:
    """Split an index (batch, *grid) into digits (batch, quantizers, *grid), the least significant first."""
    digits = []
    for size in sizes:
        digits.append(index % size)
        index = index // size
    return torch.stack(digits, 1)


def join(digits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Invert `split`: (batch, quantizers, *grid) → (batch, *grid)."""
    index, place = torch.zeros_like(digits[:, 0]), 1
    for q, size in enumerate(sizes):
        index = index + place * digits[:, q]
        place *= size
    return index


class OfficialIndex:
    """Mixin that converts codes to and from the single index of the original implementation."""

    spec: CodeSpec

    def official_index(self, codes: Codes | Tensor) -> Tensor:
        """Return the original index, int64 (batch, *grid). The first quantizer is the least significant digit.

        Args:
            codes: Codes, or their indices (batch, quantizers, *grid).
        """
        return join(codes.indices if isinstance(codes, Codes) else codes, self.spec.codebook_sizes)

    def from_official(self, index: Tensor) -> Tensor:
        """Return `Codes.indices` (batch, quantizers, *grid) for original indices (batch, *grid)."""
        return split(index, self.spec.codebook_sizes)
