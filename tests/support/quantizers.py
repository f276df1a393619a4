"""Latents and a trained quantizer for tests of quantizers."""

from __future__ import annotations

import torch

from tokenloom.codecs.quantizers import ResidualVQ


def latents(dim: int, grid: tuple[int, ...] = (5, 6), batch: int = 3, spread: float = 1.5) -> torch.Tensor:
    """Return Gaussian latents (batch, dim, *grid), the same on each call."""
    return spread * torch.randn(batch, dim, *grid, generator=torch.Generator().manual_seed(dim))


def trained_rvq(quantizers: int = 3, size: int = 16, dim: int = 6) -> ResidualVQ:
    """Return a residual quantizer after a few training steps on clusters."""
    torch.manual_seed(0)
    rvq = ResidualVQ(size, dim, quantizers, decay=0.8).train()
    centers = 3 * torch.randn(24, dim)
    for _ in range(12):
        x = centers[torch.randint(24, (4, 50))] + 0.3 * torch.randn(4, 50, dim)
        rvq.quantize(x.transpose(1, 2))
    return rvq.eval()
