"""Rounding to integers with a dead zone around zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import ROUNDING, Quantized, Quantizer, near_half


class DeadZone(Quantizer):
    """Scalar quantization with a learned soft threshold per channel.

    Values are shrunk towards zero by the threshold, as in wavelet shrinkage, then rounded to integers from −bound to
    bound. Zeros cost few bits, and small values add little quality.

    Args:
        bounds: Largest magnitude of each channel's integers.
    """

    def __init__(self, bounds: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = tuple(2 * bound + 1 for bound in bounds)
        self.dim = len(bounds)
        self.threshold = nn.Parameter(torch.full((len(bounds),), 0.25))
        self.register_buffer("bound", torch.tensor(bounds, dtype=torch.float32), persistent=False)

    def shrink(self, latents: Tensor) -> Tensor:
        """Return the shrunk values before rounding, within the bounds, with gradients."""
        bound = _per_channel(self.bound, latents)
        threshold = _per_channel(self.threshold.clamp(0, 0.49), latents)
        return (latents - latents.clamp(-1, 1) * threshold).clamp(-bound, bound)

    def quantize(self, latents: Tensor) -> Quantized:
        shrunk = self.shrink(latents)
        return Quantized(shrunk + (shrunk.round() - shrunk).detach(), latents.new_zeros(()))

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        return (self.shrink(latents).round() + _per_channel(self.bound, latents)).long()

    def decide(self, latents: Tensor, count: int | None, error: float) -> tuple[Tensor, Tensor]:
        shrunk = self.shrink(latents)  # its slope is at most 1
        close = near_half(shrunk) < error + ROUNDING * shrunk.abs()
        return (shrunk.round() + _per_channel(self.bound, latents)).long(), close.any(1)

    def lookup(self, indices: Tensor) -> Tensor:
        return indices.float() - _per_channel(self.bound, indices)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape((-1,) + (1,) * (like.ndim - 2))
