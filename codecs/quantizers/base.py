"""The quantizer protocol.

`quantize` is for training. `search` and `lookup` are the inference path: plain tensor arithmetic on the same state.
Latents are (batch, dim, *grid), indices (batch, quantizers, *grid).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

MAX_CODEBOOK = 2**14
"""Entries of the largest codebook. Larger ones are exposed as several quantizers: a language model needs small ones."""
MAX_QUANTIZERS, MAX_DIM = 64, 4096
"""Limits of a residual quantizer, so that any config fits into memory."""


class Quantized(NamedTuple):
    """Result of quantization in training.

    Attributes:
        latents: (batch, dim, *grid), with gradients to the input.
        loss: Scalar. The commitment loss, plus the codebook loss if the codebook trains by gradient, or plus the
            negative entropy of a lookup-free quantizer.
    """

    latents: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """Base class of quantizers.

    Attributes:
        sizes: Entries of each codebook.
        dim: Latent channels.
        ordered: Whether a prefix of the quantizers decodes.
    """

    sizes: tuple[int, ...]
    dim: int
    ordered: bool = False

    @abstractmethod
    def quantize(self, latents: Tensor) -> Quantized:
        """Return latents with straight-through gradients, and the quantizer's own loss, for training."""

    @abstractmethod
    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        """Return the int64 indices of the first `count` quantizers; default: all. Changes no state."""

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """Return the quantized latents of indices; −1 marks an unused quantizer."""

    def bounded(self, latents: Tensor) -> Tensor:
        """Map latents to the space of `lookup`, with gradients. `search` finds the nearest codes there."""
        return latents


def flatten(latents: Tensor) -> Tensor:
    """Reshape (batch, dim, *grid) to (batch, positions, dim) float32."""
    return latents.flatten(2).transpose(1, 2).float()


def unflatten(flat: Tensor, like: Tensor) -> Tensor:
    """Reshape (batch, positions, dim) to the shape of `like`."""
    return flat.transpose(1, 2).reshape(like.shape)
