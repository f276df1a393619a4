"""Finite scalar quantization."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import torch
from torch import Tensor

from tokenloom import devices
from tokenloom.precision import widen

from ..validate import is_integer, require_integer
from . import product
from .base import MAX_CODEBOOK, ROUNDING, Quantized, Quantizer, near_half

MAX_LEVELS = 512
"""Most levels of a channel. With more than 1000, the paper's margin of 1e-3 would add a level."""
MAX_CHANNELS = 256


class FSQ(Quantizer):
    """Finite scalar quantization: each channel is bounded and rounded to a few levels.

    Args:
        levels: Number of levels of each channel.
        codebooks: Number of codebooks (factorized tokens) that share the channels. It is raised until no codebook has
            more than 2^14 entries.

    Source: Mentzer et al., arXiv 2309.15505, eq. 2 and the code in the appendix.
    """

    bound: Tensor
    offset: Tensor
    shift: Tensor
    width: Tensor

    def __init__(self, levels: list[int], codebooks: int = 1) -> None:
        super().__init__()
        if not isinstance(levels, list | tuple) or not levels or not all(is_integer(n, 3, MAX_LEVELS) for n in levels):
            raise ValueError(f"levels of an FSQ must be integers from 3 to {MAX_LEVELS}, got {levels!r:.80}")
        require_integer("the number of channels of an FSQ", len(levels), 1, MAX_CHANNELS)
        require_integer("codebooks", codebooks, 1, len(levels))
        self.levels = tuple(levels)
        self.dim = len(levels)
        groups = _split(self.levels, codebooks)
        while max(math.prod(g) for g in groups) > MAX_CODEBOOK:
            codebooks += 1
            groups = _split(self.levels, codebooks)
        self.groups = groups
        self.sizes = tuple(math.prod(g) for g in groups)
        levels_ = torch.tensor(levels, dtype=torch.float32, device="cpu")
        half = (levels_ - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels_ % 2 == 0, 0.5, 0.0)
        for name, value in (("bound", half), ("offset", offset), ("shift", torch.atanh(offset / half)),
                            ("width", levels_ // 2)):  # fmt: skip
            self.register_buffer(name, devices.place(value), persistent=False)

    def quantize(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            quantized = _Rounded.apply(latents.float(), *self._constants(latents))
        return Quantized(cast(Tensor, quantized), latents.new_zeros((), dtype=torch.float32))

    def _constants(self, latents: Tensor) -> tuple[Tensor, ...]:
        channel = (self.dim,) + (1,) * (latents.ndim - 2)
        return tuple(b.reshape(channel) for b in (self.shift, self.bound, self.offset, self.width))

    def _scaled(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Scale latents so that the levels are integers. Return them and half the number of levels of each channel."""
        shift, half, offset, width = self._constants(latents)
        return torch.tanh(widen(latents) + shift) * half - offset, width

    def bounded(self, latents: Tensor) -> Tensor:
        scaled, width = self._scaled(latents)
        return scaled / width

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        return self._indices(*self._scaled(latents))

    def decide(self, latents: Tensor, count: int | None, error: float) -> tuple[Tensor, Tensor]:
        scaled, width = self._scaled(latents)
        _, half, offset, _ = self._constants(latents)
        slope = half - (scaled + offset).square() / half  # that of tanh here, times half the levels
        return self._indices(scaled, width), (near_half(scaled) < slope * error + ROUNDING * width).any(1)

    def _indices(self, scaled: Tensor, width: Tensor) -> Tensor:
        digits = (torch.round(scaled) + width).long()
        parts = digits.split([len(group) for group in self.groups], 1)
        return torch.stack([product.join(part, group) for part, group in zip(parts, self.groups, strict=True)], 1)

    def lookup(self, indices: Tensor) -> Tensor:
        parts = zip(indices.unbind(1), self.groups, strict=True)
        digits = torch.cat([product.split(index, group) for index, group in parts], 1)
        width = self.width.reshape((self.dim,) + (1,) * (indices.ndim - 2))
        return (digits.float() - width) / width


class _Rounded(torch.autograd.Function):
    """Bounded and rounded latents with straight-through gradients, in fewer passes than autograd takes."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, shift: Tensor, half: Tensor, offset: Tensor, width: Tensor) -> Tensor:
        bounded = (latents + shift).tanh_()
        ctx.save_for_backward(bounded, half / width)
        return (bounded * half).sub_(offset).round_().div_(width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        bounded, slope = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradient * slope, bounded), None, None, None, None


def _split(levels: tuple[int, ...], parts: int) -> tuple[tuple[int, ...], ...]:
    """Split the levels into `parts` runs whose lengths differ by at most one."""
    size, longer = divmod(len(levels), parts)
    cuts = [0]
    for i in range(parts):
        cuts.append(cuts[-1] + size + (i < longer))
    return tuple(levels[a:b] for a, b in itertools.pairwise(cuts))
