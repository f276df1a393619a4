"""Nonlinear transform coding: a codec that is trained for rate and distortion jointly.

Both transforms are the sum of a linear and a learned part. The linear part is an orthonormal 16×16 DCT of three
decorrelated colors, so an untrained codec works like JPEG. A context model learns the statistics of the codes. The
setting is the quantizer step, so one model covers the whole rate-distortion curve (Cui et al., arXiv 2003.02012).
Source: Ballé et al., "Nonlinear Transform Coding" (arXiv 2007.03034).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tokenloom import devices
from tokenloom.precision import widen

from .. import batches
from ..codec import LatentCodec
from ..context import MAX_BOUND, ContextModel
from ..layers import ChannelNorm, ConvBlock, tracing
from ..quantizers import DeadZone
from ..registry import register
from ..types import Codes, CodeSpec, Modality, Settings
from ..validate import are_integers
from .autoencoder import LocalEncoder

STRIDE, PATCH = 16, 4
QUALITIES = tuple(range(1, 34))
SWEEP = (1, 5, 9, 13, 17, 21, 27, 33)
UNIT_QUALITY = 17
"""Quality with a quantizer step of 1 in units of the latents."""
UNIT = 160 / 255
"""Size of that step in the range of the signals."""
GROUPS = (3, 13, 48)
"""Channels of the first groups of the context model. The last group has the rest, the first the block means."""
BOUNDS = (MAX_BOUND, 127, 31, 31)
ROUNDING = 2.0**-19
"""Bound of the rounding error of latents: twice the largest error measured. The learned part of latents is about 1."""
LAGRANGIAN = 0.134
"""Lagrange multiplier: distortion per bit in squared steps. HM's λ(QP) and step(QP) imply 0.85 · 2^(−8/3)."""


def step(quality: Tensor | int) -> Tensor | float:
    """Return the quantizer step in units of the latents: it halves every eight qualities."""
    return 2.0 ** ((UNIT_QUALITY - quality) / 8)


class NTCDecoder(nn.Module):
    """Latents and their linear reconstruction → a refined reconstruction."""

    def __init__(self, dim: int, widths: list[int], depths: list[int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(dim + 1, widths[-1], 3, padding=1)
        stages = zip(widths, depths, strict=True)
        self.stages = nn.ModuleList(nn.Sequential(*(ConvBlock(w) for _ in range(d))) for w, d in stages)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(widths))
        self.linear = nn.Conv2d(3 * PATCH**2, widths[0], 3, padding=1)
        self.norm = ChannelNorm(widths[0])
        self.last = nn.Conv2d(widths[0], 3 * PATCH**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, latents: Float[Tensor, "batch dim height width"], linear: Float[Tensor, "batch 3 rows columns"]
    ) -> Float[Tensor, "batch 3 rows columns"]:
        x = self.first(latents)
        for stage in range(len(self.stages) - 1, -1, -1):
            if stage == 0:
                x = x + self.linear(F.pixel_unshuffle(linear, PATCH))
            x = self.stages[stage](x)
            if stage:
                x = F.pixel_shuffle(self.up[stage - 1](x), 2)
        return linear + F.pixel_shuffle(self.last(self.norm(x)), PATCH).float()


@register("image/ntc")
class NTC(LatentCodec):
    """Learned transform codec with a context model. Setting: quality from 1 to 33; eight qualities halve the step.

    Args:
        channels: Latent channels per block of 16×16 pixels. A full transform has 768.
        widths: Channels of both networks at strides 4, 8 and 16.
        depths: Residual blocks of each stage in the encoder.
        decoder_depths: Residual blocks of each stage in the decoder.
        context: Hidden channels of the context model.
    """

    exact = True
    codes_weight = 1.0  # the loss has the units of the mean squared error

    def __init__(
        self, channels: int = 192, widths: list[int] = (128, 160, 192), depths: list[int] = (1, 1, 1),
        decoder_depths: list[int] = (3, 2, 1), context: int = 128,
    ) -> None:  # fmt: skip
        for name, value, low, most in (
            ("widths", widths, 1, 4096), ("depths", depths, 0, 64), ("decoder_depths", decoder_depths, 0, 64)
        ):  # fmt: skip
            if not are_integers(value, low, most) or len(value) != 3:
                raise ValueError(f"{name} must be three integers from {low} to {most}, got {value!r:.80}")
        if not are_integers([channels], sum(GROUPS) + 1, 3 * STRIDE**2) or not are_integers([context], 1, 1024):
            raise ValueError(
                f"channels must be from {sum(GROUPS) + 1} to {3 * STRIDE**2} and context from 1 to 1024, got "
                f"{channels!r:.80} and {context!r:.80}"
            )
        groups = [*GROUPS, channels - sum(GROUPS)]
        bounds = tuple(bound for bound, size in zip(BOUNDS, groups, strict=True) for _ in range(size))
        quantizer = DeadZone(bounds)
        super().__init__(CodeSpec(Modality.IMAGE, quantizer.sizes, (STRIDE, STRIDE), channels=3), quantizer)
        self.settings = Settings("quality", "", UNIT_QUALITY, SWEEP, QUALITIES)
        self.encoder = LocalEncoder(PATCH, list(widths), list(depths), channels)
        nn.init.zeros_(self.encoder[-1].weight)
        nn.init.zeros_(self.encoder[-1].bias)
        self.synthesis = NTCDecoder(channels, list(widths), list(decoder_depths))
        self.context = ContextModel(bounds, groups, context)
        self.register_buffer("basis", devices.place(dct_basis(channels)), persistent=False)

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the window that one code depends on."""
        return max(STRIDE, self.encoder.receptive_field)

    def analyze(self, x: Tensor) -> Tensor:
        centered = batches.pad_to_stride(x, STRIDE) - 0.5
        with torch.autocast(x.device.type, enabled=False):
            linear = self._transform(widen(centered)) / UNIT
        return linear + widen(self.encoder((2 * centered).contiguous(memory_format=torch.channels_last)))

    def analyze_at(self, x: Tensor, place: Sequence[int]) -> Tensor:
        learned = self.encoder.center(x, place, STRIDE)
        if learned is None:
            return super().analyze_at(x, place)
        row, column = (STRIDE * at for at in place)
        block = x[..., row : row + STRIDE, column : column + STRIDE].double()
        return self._transform(block - 0.5) / UNIT + learned

    def _transform(self, x: Tensor) -> Tensor:
        """Apply the DCT, where codes are made in float64: sums of 768 products in float32 are 30 times less exact."""
        if self.training or torch.is_grad_enabled() or tracing.exporting():
            return F.conv2d(x, self.basis, stride=STRIDE)
        place = devices.with_float64(x.device)
        exact = F.conv2d(x.to(place, torch.float64), self.basis.to(place, torch.float64), stride=STRIDE)
        return exact.to(x.device, x.dtype)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map dequantized latents and a plane of the relative quality (see `_embed`) to images."""
        with torch.autocast(latents.device.type, enabled=False):
            linear = F.conv_transpose2d(latents[:, :-1].float(), self.basis, stride=STRIDE) * UNIT
        return self.synthesis(latents.contiguous(memory_format=torch.channels_last), linear) + 0.5

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions at a random quality per item, and λ · bits per pixel.

        The distribution of qualities is a triangle with its peak in the middle. λ is proportional to the squared step,
        in units of the mean squared error of signals in [0, 1].
        """
        low, high = QUALITIES[0], QUALITIES[-1] + 1
        quality = torch.randint(low, high, (2, len(x), 1, 1, 1), device=x.device).sum(0) // 2
        size = step(quality)
        scaled = self.analyze(x).float() / size
        codes = self.quantizer.quantize(scaled).latents
        noisy = self.quantizer.shrink(scaled) + torch.rand_like(scaled) - 0.5
        bits = self.context.bits(noisy, codes, _relative(quality).reshape(-1))
        price = LAGRANGIAN / 3 * (size.reshape(-1) * UNIT).square()
        loss = (price * bits).mean() / (x.shape[2] * x.shape[3])
        return self.synthesize(_with_plane(codes * size, quality)), loss

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"quality": ()}

    @property
    def latent_channels(self) -> int:
        return self.quantizer.dim + 1

    def search(self, latents: Tensor, setting: int) -> Tensor:
        return self.quantizer.search(latents / step(setting))

    def decide(self, latents: Tensor, setting: int) -> tuple[Tensor, Tensor]:
        return self.quantizer.decide(latents / step(setting), None, ROUNDING / step(setting))

    def decode_indices(self, indices: Tensor, setting: int) -> Tensor:
        return self.synthesize(self._dequantize(indices, indices.new_full(indices.shape[:1], setting).float()))

    def _encode(self, x: Tensor, setting: int) -> Codes:
        codes = super()._encode(x, setting)
        quality = torch.full((len(x),), float(setting), device=x.device)
        return Codes(codes.indices, codes.sizes, None, {"quality": quality})

    def _embed(self, codes: Codes) -> Tensor:
        """Return dequantized latents and a plane of the relative quality, float32 (batch, channels + 1, *grid)."""
        return self._dequantize(codes.indices, self._quality(codes.side))

    def condition(self, side: dict[str, Tensor]) -> float:
        return _relative(self._quality(side)).item()

    def _dequantize(self, indices: Tensor, quality: Tensor) -> Tensor:
        quality = quality.reshape(-1, 1, 1, 1)
        return _with_plane(self.quantizer.lookup(indices) * step(quality), quality)

    def _quality(self, side: dict[str, Tensor]) -> Tensor:
        """Return the quality of each item. Raises ValueError for values outside QUALITIES."""
        if wrong := [q for q in side["quality"].tolist() if q not in QUALITIES]:
            raise ValueError(f"quality of {self.name} must be one of {self.settings.describe()}, got {wrong[0]:g}")
        return side["quality"]


def _relative(quality: Tensor) -> Tensor:
    """Return (quality − UNIT_QUALITY) / 8, from −2 to 2: log2 of the unit step over the step."""
    return (quality - UNIT_QUALITY) / 8


def _with_plane(latents: Tensor, quality: Tensor) -> Tensor:
    plane = _relative(quality).to(latents.dtype).expand(-1, 1, *latents.shape[2:])
    return torch.cat([latents, plane], 1)


def dct_basis(channels: int) -> Tensor:
    """Return an orthonormal 16×16 DCT-II of three decorrelated colors: (channels, 3, 16, 16) float32.

    The colors are brightness, red − blue, and 2 · green − red − blue, close to the principal axes of photographs (Ohta
    et al. 1980). Channels are sorted by falling variance, with the three means first. The variance is assumed to be
    proportional to 1 / (1 + f²) at frequency f.
    """
    n = torch.arange(STRIDE, dtype=torch.float64, device="cpu")
    rows = torch.cos(math.pi / STRIDE * (n + 0.5) * n[:, None]) * math.sqrt(2 / STRIDE)
    rows[0] /= math.sqrt(2)
    colors = n.new_tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]])
    colors = colors / colors.norm(dim=1, keepdim=True)
    full = torch.einsum("cr,iy,jx->cijryx", colors, rows, rows).flatten(0, 2)
    power = n.new_tensor([1.0, 0.08, 0.03])[:, None, None] / (1 + n.square()[:, None] + n.square())
    power[:, 0, 0] += 1
    order = power.flatten().argsort(descending=True, stable=True)
    return full[order[:channels]].float().contiguous()
