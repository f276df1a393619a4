"""The quantizer protocol.

`quantize` is for training, `search`, `decide` and `lookup` are for inference. All use the same state.
Latents are (batch, dim, *grid), indices (batch, quantizers, *grid).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from tokenloom.precision import widen

MAX_CODEBOOK = 2**14
"""Most entries of a codebook. Larger ones are split into several quantizers, since token models need small ones."""
MAX_QUANTIZERS, MAX_DIM = 64, 4096
"""Limits of a residual quantizer. They bound the memory that a config can ask for."""

ROUNDING = 2.0**-21
"""Bound of the rounding error of a few operations in float32, relative to their largest value."""


class Quantized(NamedTuple):
    """Result of quantization in training.

    Attributes:
        latents: (batch, dim, *grid), with gradients to the input.
        loss: Scalar: the commitment loss, plus the codebook loss of codebooks that train by gradient, plus the
            entropy term of lookup-free quantizers.
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
        """Return quantized latents with straight-through gradients, and the loss."""

    @abstractmethod
    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        """Return the int64 indices of the first `count` quantizers; None for all. The state does not change."""

    def decide(self, latents: Tensor, count: int | None, error: float) -> tuple[Tensor, Tensor]:
        """Return what `search` returns, and where an error of a latent could change an index, bool (batch, *grid).

        Args:
            latents: (batch, dim, *grid).
            count: Number of quantizers, as for `search`.
            error: Largest Euclidean length of the error.
        """
        raise NotImplementedError(f"{type(self).__name__} does not know how close latents are to another index")

    @property
    def decides(self) -> bool:
        """Whether the quantizer has a `decide` of its own. Without one, its codes are those of float32."""
        return type(self).decide is not Quantizer.decide

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """Return the quantized latents of indices; −1 marks an unused quantizer."""

    def bounded(self, latents: Tensor) -> Tensor:
        """Map latents to the space of `lookup`, in which `search` finds the nearest entries. Keeps gradients."""
        return latents


def flatten(latents: Tensor) -> Tensor:
    """Reshape (batch, dim, *grid) to (batch, positions, dim), at least float32."""
    return widen(latents.flatten(2).transpose(1, 2))


def unflatten(flat: Tensor, like: Tensor) -> Tensor:
    """Reshape (batch, positions, dim) to the shape of `like`."""
    return flat.transpose(1, 2).reshape(like.shape)


def near_half(values: Tensor) -> Tensor:
    """Return how far values are from where rounding to integers changes, 0 to 0.5."""
    return (values - values.floor() - 0.5).abs()
