"""The quantizer protocol: three methods.

`quantize` is for training. `search` and `lookup` are the inference path: plain tensor arithmetic on the same state.
Latents are (batch, dim, *grid), indices (batch, quantizers, *grid).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

MAX_CODEBOOK = 2**14
"""Larger codebooks are exposed as several quantizers: a language model could not learn them."""
MAX_QUANTIZERS, MAX_DIM = 64, 4096
"""Of one residual quantizer: what a config asks for stays within memory."""


class Quantized(NamedTuple):
    latents: Tensor
    """(batch, dim, *grid), with gradients to the input"""
    loss: Tensor
    """scalar: commitment loss, with the codebook's where that learns by gradient; or the negated entropy term of a
    lookup-free quantizer"""


class Quantizer(nn.Module, ABC):
    """sizes: entries of each codebook; dim: latent channels; ordered: a prefix of quantizers decodes."""

    sizes: tuple[int, ...]
    dim: int
    ordered: bool = False

    @abstractmethod
    def quantize(self, latents: Tensor) -> Quantized:
        """Training: latents with straight-through gradients, and the quantizer's own loss."""

    @abstractmethod
    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        """Indices int64 of the first `count` quantizers (all by default); no state changes."""

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """Quantised latents of indices; −1 stands for a quantizer that is left out."""

    def bounded(self, latents: Tensor) -> Tensor:
        """Latents, with gradients, in the space of `lookup`: what `search` finds the nearest codes to."""
        return latents


def flatten(latents: Tensor) -> Tensor:
    """(batch, dim, *grid) → (batch, positions, dim) float32."""
    return latents.flatten(2).transpose(1, 2).float()


def unflatten(flat: Tensor, like: Tensor) -> Tensor:
    return flat.transpose(1, 2).reshape(like.shape)
