"""Comparison of exported programs with the codec on generated signals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..codec import LatentCodec
from ..types import Modality


@dataclass(frozen=True)
class Agreement:
    """Difference between an exported codec and the codec.

    Attributes:
        tokens: Number of compared tokens.
        differing: Number of tokens that differ.
        largest: Largest difference between samples that are decoded from the same codes.
    """

    tokens: int
    differing: int
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.differing} of {self.tokens} codes differ ({100 * self.differing / self.tokens:.3g} %), "
            f"signals by at most {self.largest:.2g}"
        )


def measure(
    codec: LatentCodec, setting: Any, device: torch.device,
    encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor],
) -> Agreement:  # fmt: skip
    """Compare programs on `device` with a codec on two large signals and on one signal of size 1."""
    tokens = differing = 0
    largest = 0.0
    for size, batch in ((_large_size(codec), 2), ((1,) * len(codec.position_stride), 1)):
        signal = probe_signal(codec, size, batch)
        codes = codec.encode(signal, setting)
        expected, indices = codec.indices_by_position(codes).cpu(), encode(signal.to(device)).cpu()
        if indices.shape != expected.shape:
            raise ValueError(
                f"{codec.name} cannot be exported: the codes must have shape {tuple(expected.shape)}, got "
                f"{tuple(indices.shape)}"
            )
        decoded = decode(expected.to(device)).cpu()[(..., *(slice(n) for n in size))]
        tokens += expected.numel()
        differing += int((indices != expected).sum())
        error = float((decoded - codec.decode(codes).cpu()).abs().max())
        largest = error if math.isnan(error) else max(largest, error)
    return Agreement(tokens, differing, largest)


def _large_size(codec: LatentCodec) -> tuple[int, ...]:
    """Return a size of about a thousand codes that is not a multiple of the stride along any axis."""
    stride = codec.position_stride
    positions = 1024 if len(codec.spec.codebook_sizes) < 64 else 64
    if not codec.spec.stride:  # a position has several tokens
        positions = 16
    side = positions if len(stride) == 1 else math.isqrt(positions)
    return tuple(max(1, (side - axis) * step - step // 3) for axis, step in enumerate(stride))


def probe_signal(codec: LatentCodec, size: tuple[int, ...], batch: int) -> Tensor:
    """Return sine waves with a little noise, float32 (batch, channels, *size), in the range of the modality."""
    noise = torch.Generator().manual_seed(0)
    phase = 6.3 * torch.rand(batch, codec.spec.channels, *[1] * len(size), generator=noise)
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    wave = sum(torch.sin(phase + place / period) for place in places for period in (3.0, 17.0, 90.0))
    x = wave / (3 * len(size)) + 0.1 * torch.randn(wave.shape, generator=noise)
    return (x.clamp(-1, 1) + 1) / 2 if codec.spec.modality is Modality.IMAGE else x.clamp(-1, 1)
