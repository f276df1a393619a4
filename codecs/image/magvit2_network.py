"""Network of Open-MAGVIT2 (Luo et al., arXiv 2409.04410): residual blocks, and group norms that the codes modulate.

Modules have the names of the official code, so its weights load without renaming.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import EPSILON, FeatureMap, GroupNorm, inference, swish, tracing

GROUPS = 32
"""Groups of every norm."""


class UnbiasedBlock(nn.Module):
    """Pre-norm residual block of two 3×3 convolutions without biases."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(GROUPS, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm2 = GroupNorm(GROUPS, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        residual = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        x = inference.convolve(x, self.conv1, self.norm1)
        return inference.convolve(x, self.conv2, self.norm2, residual)


class DepthToSpace(nn.Module):
    """Doubles the size: a convolution to four times the channels, whose outer index is the offset within a pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        x = self.conv1(x).unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        return F.pixel_shuffle(x, 2)


class AdaptiveGroupNorm(nn.Module):
    """Group norm. Scale and shift are linear in the standard deviation and the mean of the codewords over the image."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.gn = GroupNorm(GROUPS, width, affine=False)
        self.gamma = nn.Linear(bits, width)
        self.beta = nn.Linear(bits, width)

    def forward(self, x: FeatureMap, words: FeatureMap) -> FeatureMap:
        words = words.flatten(2)
        scale, shift = self.gamma((_variance(words) + EPSILON).sqrt()), self.beta(words.mean(2))
        return inference.normalize(x, self.gn) * scale[:, :, None, None] + shift[:, :, None, None]


def _variance(words: Tensor) -> Tensor:
    """Return the unbiased variance over the last axis; 0 for a single value."""
    if not tracing.exporting():
        return words.var(2, correction=min(1, words.shape[2] - 1))
    others = torch.full((), words.shape[2] - 1).clamp_min(1)  # a trace would keep the branch of its example
    return (words - words.mean(2, keepdim=True)).square().sum(2) / others


def _stage(before: int, after: int, blocks: int, **more: nn.Module) -> nn.ModuleDict:
    layers = [UnbiasedBlock(before if i == 0 else after, after) for i in range(blocks)]
    return nn.ModuleDict({"block": nn.ModuleList(layers), **more})


class MAGVIT2Encoder(nn.Module):
    """Images (batch, 3, height, width) in [-1, 1] → latents (batch, bits, *grid)."""

    def __init__(self, channels: int, multipliers: list[int], blocks: int, bits: int) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        stages = []
        for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            last = i == len(widths) - 1
            more = {} if last else {"downsample": nn.Conv2d(after, after, 3, stride=2, padding=1)}
            stages.append(_stage(before, after, blocks, **more))
        self.down = nn.ModuleList(stages)
        self.mid_block = nn.ModuleList(UnbiasedBlock(widths[-1], widths[-1]) for _ in range(blocks))
        self.norm_out = GroupNorm(GROUPS, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], bits, 1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        x = self.conv_in(x)
        for stage in self.down:
            for block in stage["block"]:
                x = block(x)
            if "downsample" in stage:
                x = stage["downsample"](x)
        for block in self.mid_block:
            x = block(x)
        return self.conv_out(swish(self.norm_out(x)))


class MAGVIT2Decoder(nn.Module):
    """Codewords → images (batch, 3, height, width) around [-1, 1].

    `up` and `adaptive` are numbered from full resolution and run in reverse.
    """

    def __init__(self, channels: int, multipliers: list[int], blocks: int, bits: int) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        self.conv_in = nn.Conv2d(bits, widths[-1], 3, padding=1)
        self.mid_block = nn.ModuleList(UnbiasedBlock(widths[-1], widths[-1]) for _ in range(blocks))
        coarser = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            _stage(before, after, blocks, **({"upsample": DepthToSpace(after)} if i else {}))
            for i, (before, after) in enumerate(zip(coarser, widths, strict=True))
        )
        self.adaptive = nn.ModuleList(AdaptiveGroupNorm(bits, before) for before in coarser)
        self.norm_out = GroupNorm(GROUPS, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, words: FeatureMap) -> FeatureMap:
        x = self.conv_in(inference.enter(words))
        for block in self.mid_block:
            x = block(x)
        for stage, norm in zip(reversed(self.up), reversed(self.adaptive), strict=True):
            x = norm(x, words)
            for block in stage["block"]:
                x = block(x)
            if "upsample" in stage:
                x = inference.enter(stage["upsample"](x))
        return inference.convolve(x, self.conv_out, self.norm_out)
