"""Local convolutional autoencoder for images, and the codec that quantizes its latents.

All layers are convolutions or norms per position, so a code depends on a finite window, and overlapping tiles give the
same codes as the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import batches
from ..codec import LatentCodec
from ..layers import ChannelNorm, ConvBlock
from ..quantizers import Quantizer
from ..types import CodeSpec, Modality
from ..validate import are_integers, is_integer, require_integer


class LocalEncoder(nn.Sequential):
    """Images (batch, 3, height, width) → latents (batch, dim, *grid). Stages after the first halve the resolution."""

    def __init__(self, patch: int, widths: list[int], depths: list[int], dim: int) -> None:
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(3 * patch**2, widths[0], 3, padding=1)]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers += [nn.Conv2d(widths[stage - 1], width, 4, stride=2, padding=1)]
            layers += [ConvBlock(width) for _ in range(depth)]
        super().__init__(*layers, ChannelNorm(widths[-1]), nn.Conv2d(widths[-1], dim, 1))

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the window that one latent depends on."""
        pixels, jump = 1, 1
        for layer in self.modules():
            if isinstance(layer, nn.PixelUnshuffle):
                pixels, jump = layer.downscale_factor, layer.downscale_factor
            elif isinstance(layer, nn.Conv2d):
                pixels += (layer.kernel_size[0] - 1) * jump
                jump *= layer.stride[0]
        return pixels

    def center(self, x: Tensor, place: Sequence[int], stride: int) -> Tensor | None:
        """Return the latents of one position of a picture in float64, with a third of the operations of its window.

        Padding plays no part in it. The result is None where it does, near the edges.
        """
        side = self.receptive_field
        starts = [at * stride - (side - stride) // 2 for at in place]
        if min(starts) < 0 or any(start + side > n for start, n in zip(starts, x.shape[2:], strict=True)):
            return None
        x = x[(..., *(slice(start, start + side) for start in starts))].double() * 2 - 1
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                x = F.conv2d(x, layer.weight, layer.bias, layer.stride)
            else:
                x = layer.inner(x) if isinstance(layer, ConvBlock) else layer(x)
        return x


class LocalDecoder(nn.Sequential):
    """Latents → images (batch, 3, height, width), with the stages of `LocalEncoder` in reverse."""

    def __init__(self, patch: int, widths: list[int], depths: list[int], dim: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(dim, widths[-1], 3, padding=1)]
        for stage in range(len(widths) - 1, -1, -1):
            layers += [ConvBlock(widths[stage]) for _ in range(depths[stage])]
            if stage:
                layers += [nn.Conv2d(widths[stage], 4 * widths[stage - 1], 3, padding=1), nn.PixelShuffle(2)]
        layers += [ChannelNorm(widths[0]), nn.Conv2d(widths[0], 3 * patch**2, 3, padding=1), nn.PixelShuffle(patch)]
        super().__init__(*layers)


class Autoencoder(LatentCodec):
    """Image codec: a local encoder, a quantizer and a local decoder. Edges are replicated up to whole strides.

    Args:
        quantizer: Any quantizer.
        stride: Pixels per code and axis, a power of two.
        patch: Side of the first layer's patches in pixels; stride = patch · 2^(stages − 1).
        widths: Channels of each stage, finest stage first.
        depths: Residual blocks of each stage in the encoder.
        decoder_depths: Residual blocks of each stage in the decoder; None for `depths`.
    """

    exact = True

    def __init__(
        self, quantizer: Quantizer, *, stride: int, patch: int, widths: list[int], depths: list[int],
        decoder_depths: list[int] | None = None,
    ) -> None:  # fmt: skip
        decoder_depths = depths if decoder_depths is None else decoder_depths
        _check(stride, patch, widths, depths)
        _check(stride, patch, widths, decoder_depths)
        spec = CodeSpec(Modality.IMAGE, quantizer.sizes, (stride, stride), channels=3, ordered=quantizer.ordered)
        super().__init__(spec, quantizer)
        self.encoder = LocalEncoder(patch, widths, depths, quantizer.dim)
        self.decoder = LocalDecoder(patch, widths, decoder_depths, quantizer.dim)

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the window that one code depends on."""
        return self.encoder.receptive_field

    def analyze(self, x: Tensor) -> Tensor:
        x = batches.pad_to_stride(x, self.spec.stride[0])
        return self.encoder((x * 2 - 1).contiguous(memory_format=torch.channels_last))

    def analyze_at(self, x: Tensor, place: Sequence[int]) -> Tensor:
        latents = self.encoder.center(x, place, self.spec.stride[0])
        return super().analyze_at(x, place) if latents is None else latents

    def synthesize(self, latents: Tensor) -> Tensor:
        return (self.decoder(latents.contiguous(memory_format=torch.channels_last)) + 1) / 2


def _check(stride: int, patch: int, widths: list[int], depths: list[int]) -> None:
    """Raise ValueError if the stages do not give the stride."""
    if not is_integer(stride, 1, 256) or stride & (stride - 1):
        raise ValueError(f"stride must be a power of two up to 256, got {stride!r}")
    require_integer("patch", patch, 1, 64)
    if not are_integers(widths, 1, 4096):
        raise ValueError(f"widths must be a list of integers from 1 to 4096, got {widths!r:.80}")
    if not are_integers(depths, 0, 64):
        raise ValueError(f"depths must be a list of integers from 0 to 64, got {depths!r:.80}")
    if len(widths) != len(depths):
        raise ValueError(f"widths and depths must have one number per stage, got {len(widths)} and {len(depths)}")
    if patch * 2 ** (len(widths) - 1) != stride:
        raise ValueError(
            f"stride must be patch · 2^(stages − 1) = {patch * 2 ** (len(widths) - 1)} for patch {patch} and "
            f"{len(widths)} stages, got {stride}"
        )
