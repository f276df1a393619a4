"""Norms, activations and blocks that several networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tokenloom.precision import widen

from . import tracing

EPSILON = 1e-6
"""Added to the variance in every norm of this module."""

FeatureMap = Float[Tensor, "batch channels height width"]


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each position (arXiv 1910.07467). No gain if `channels` is None."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.gain = None if channels is None else nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: FeatureMap) -> FeatureMap:
        x = x * torch.rsqrt(widen(x).square().mean(1, keepdim=True) + EPSILON).to(x.dtype)
        return x if self.gain is None else x * self.gain.to(x.dtype)


class ConvBlock(nn.Module):
    """Pre-norm residual block of two 3×3 convolutions (arXiv 1603.05027). It starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: FeatureMap) -> FeatureMap:
        return x + self.second(F.relu(self.first(self.norm(x))))

    def inner(self, x: FeatureMap) -> FeatureMap:
        """Return the results that depend on no padding: two fewer on each side."""
        h = F.relu(F.conv2d(self.norm(x), self.first.weight, self.first.bias))
        return x[..., 2:-2, 2:-2] + F.conv2d(h, self.second.weight, self.second.bias)


class GroupNorm(nn.GroupNorm):
    """PyTorch's group norm that also accepts a single value per group, as in an image of one code."""

    def __init__(self, groups: int, channels: int, affine: bool = True) -> None:
        super().__init__(groups, channels, EPSILON, affine)

    def forward(self, x: FeatureMap) -> FeatureMap:
        if tracing.exporting():
            return tracing.group_norm(x, self)
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def swish(x: Tensor) -> Tensor:
    """Return x · sigmoid(x), computed in two steps like published networks. F.silu rounds differently."""
    return x * torch.sigmoid(x)
