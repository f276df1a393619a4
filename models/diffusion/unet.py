"""A local U-Net for any size of input, conditioned on a few numbers and on latents of a coarser grid."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom.codecs.layers import ChannelNorm
from tokenloom.codecs.validate import are_integers, require_integer

FREQUENCIES = 16
"""Number of sines and of cosines that embed each conditioning number."""
TILE = 1024
"""Side of the tiles of large inputs, without the overlap."""
WIDTHS, DEPTHS = (64, 128, 192), (2, 2, 2)


class ModulatedBlock(nn.Module):
    """Residual block of two 3×3 convolutions, modulated by the embedding (FiLM, arXiv 1709.07871)."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = ChannelNorm()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(embedding, 3 * channels)
        for layer in (self.modulate, self.second):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift, middle = self.modulate(e)[:, :, None, None].to(x.dtype).chunk(3, 1)
        h = self.first(self.norm(x) * (1 + scale) + shift)
        return x + self.second(F.silu(h) * (1 + middle))


class UNet(nn.Module):
    """U-Net with residual blocks (Ronneberger et al., arXiv 1505.04597). Borders are padded by replication.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        numbers: Number of conditioning numbers, which should be around 1 in magnitude.
        latents: Channels of the latents, or None.
        patch: Side of the patches that the first layer merges.
        widths: Channels of each stage, finest first; each stage has half the resolution of the one before.
        depths: Blocks of each stage, in the encoder and again in the decoder.
    """

    def __init__(
        self, inputs: int, outputs: int, *, numbers: int, latents: int | None, patch: int = 2,
        widths: list[int] = WIDTHS, depths: list[int] = DEPTHS,
    ) -> None:  # fmt: skip
        _check(patch, widths, depths)
        super().__init__()
        self.outputs, self.patch, self.coarsest = outputs, patch, patch * 2 ** (len(widths) - 1)
        embedding = 2 * widths[-1]
        self.register_buffer("frequencies", torch.logspace(0, math.log10(50), FREQUENCIES), persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(2 * FREQUENCIES * numbers, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.enter = nn.Conv2d(inputs * patch**2, widths[0], 3, padding=1)
        self.latents = None if latents is None else nn.Conv2d(latents, widths[-1], 3, padding=1)
        self.down = nn.ModuleList(_stage(w, n, embedding) for w, n in zip(widths, depths, strict=True))
        self.up = nn.ModuleList(_stage(w, n, embedding) for w, n in zip(widths, depths, strict=True))
        pairs = list(itertools.pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.leave = nn.Sequential(ChannelNorm(), nn.Conv2d(widths[0], outputs * patch**2, 3, padding=1))
        nn.init.zeros_(self.leave[1].weight)
        nn.init.zeros_(self.leave[1].bias)

    @staticmethod
    def min_weights(*, patch: int = 2, widths: list[int] = WIDTHS, depths: list[int] = DEPTHS) -> int:
        """Return a lower bound on the number of weights: the number in the blocks."""
        _check(patch, widths, depths)
        return sum(2 * n * 2 * 9 * w * w for w, n in zip(widths, depths, strict=True))

    @property
    def reach(self) -> int:
        """Radius of the receptive field, rounded up to a multiple of the coarsest stage's stride."""
        steps = [self.patch * 2**i for i in range(len(self.down))]
        blocks = sum(4 * len(stage) * step for stage, step in zip(self.down, steps, strict=True))
        return -(-(blocks + 2 * self.patch + 2 * self.coarsest) // self.coarsest) * self.coarsest

    def forward(self, x: Tensor, numbers: Tensor, latents: Tensor | None = None) -> Tensor:
        """Return (batch, outputs, height, width) for x, numbers (batch, n) and one latent per coarsest position.

        Without gradients, large inputs are processed tile by tile.
        """
        if torch.is_grad_enabled() or x[0, 0].numel() <= TILE**2:
            return self._forward(x, numbers, latents)
        step = TILE // self.coarsest * self.coarsest
        out = x.new_empty(len(x), self.outputs, *x.shape[2:])
        for top, left in itertools.product(range(0, x.shape[2], step), range(0, x.shape[3], step)):
            corner = [max(0, at - self.reach) for at in (top, left)]
            ends = [at + step + self.reach for at in (top, left)]
            window = tuple(slice(a, b) for a, b in zip(corner, ends, strict=True))
            coarse = tuple(slice(a // self.coarsest, b // self.coarsest) for a, b in zip(corner, ends, strict=True))
            part = self._forward(x[(..., *window)], numbers, None if latents is None else latents[(..., *coarse)])
            inner = part[:, :, top - corner[0] :, left - corner[1] :][:, :, :step, :step]
            out[:, :, top : top + step, left : left + step] = inner
        return out

    def _forward(self, x: Tensor, numbers: Tensor, latents: Tensor | None) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.coarsest, 0, -height % self.coarsest), mode="replicate")
        angles = (numbers[:, :, None] * self.frequencies).flatten(1)
        e = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round faint noise away
            h = self.enter(F.pixel_unshuffle(x.float(), self.patch).contiguous(memory_format=torch.channels_last))
        kept = []
        for i, stage in enumerate(self.down):
            if i:
                kept.append(h)
                h = self.shrink[i - 1](h)
            if self.latents is not None and i == len(self.down) - 1:
                h = h + F.interpolate(self.latents(latents), size=h.shape[2:], mode="nearest")
            for block in stage:
                h = block(h, e)
        for i in reversed(range(len(self.up))):
            for block in self.up[i]:
                h = block(h, e)
            if i:
                h = F.pixel_shuffle(self.grow[i - 1](h), 2) + kept.pop()
        return F.pixel_shuffle(self.leave(h), self.patch)[:, :, :height, :width]


def _stage(width: int, depth: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(ModulatedBlock(width, embedding) for _ in range(depth))


def _check(patch: int, widths: list[int], depths: list[int]) -> None:
    """Raise ValueError unless the arguments describe a network."""
    require_integer("patch", patch, 1, 16)
    if not are_integers(widths, 1, 2048, longest=6):
        raise ValueError(f"widths must be a list of 1 to 6 integers from 1 to 2048, got {widths!r:.80}")
    if not are_integers(depths, 0, 32, longest=6) or len(depths) != len(widths):
        raise ValueError(f"depths must be integers from 0 to 32, one for each of {list(widths)}, got {depths!r:.80}")
