"""A local convolutional autoencoder for images, and the codec that puts a quantizer between its halves.

Every layer is a convolution or a channel-wise norm: what a code depends on is a finite window, so
tiles with enough overlap give exactly the codes of the whole picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .. import batches
from ..codec import LatentCodec
from ..quantizers import Quantizer
from ..types import CodeSpec, Modality
from ..validate import are_integers, is_integer


class RMSNorm(nn.Module):
    """Channel-wise root-mean-square norm (arXiv 1910.07467): each position by itself, so it is local."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6)
        return x * scale.to(x.dtype) * self.gain.to(x.dtype)


class Block(nn.Module):
    """Pre-norm residual block of two 3×3 convolutions (arXiv 1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return x + self.second(F.relu(self.first(self.norm(x))))


def _stages(stride: int, patch: int, widths: list[int], depths: list[int]) -> None:
    """Raise one line where the stages do not make the stride."""
    if not is_integer(stride, 1, 256) or stride & (stride - 1):
        raise ValueError(f"stride {stride!r} is no power of two up to 256")
    if not is_integer(patch, 1, 64):
        raise ValueError(f"patch {patch!r} is no whole number of pixels from 1 to 64")
    if not are_integers(widths, 1, 4096):
        raise ValueError(f"widths are a list of whole numbers from 1 to 4096, not {widths!r:.80}")
    if not are_integers(depths, 0, 64):
        raise ValueError(f"depths are a list of whole numbers from 0 to 64, not {depths!r:.80}")
    if len(widths) != len(depths):
        raise ValueError(f"{len(widths)} widths and {len(depths)} depths; one of each per stage")
    if patch * 2 ** (len(widths) - 1) != stride:
        raise ValueError(
            f"patch {patch} and {len(widths)} stages make stride {patch * 2 ** (len(widths) - 1)}, not {stride}"
        )


class Encoder(nn.Sequential):
    """Patches of `patch` pixels, then stages that halve the resolution. (batch, 3, h, w) → latents."""

    def __init__(self, patch: int, widths: list[int], depths: list[int], dim: int) -> None:
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(3 * patch**2, widths[0], 3, padding=1)]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers += [nn.Conv2d(widths[stage - 1], width, 4, stride=2, padding=1)]
            layers += [Block(width) for _ in range(depth)]
        super().__init__(*layers, RMSNorm(widths[-1]), nn.Conv2d(widths[-1], dim, 1))


class Decoder(nn.Sequential):
    """The mirror: latents → (batch, 3, h, w)."""

    def __init__(self, patch: int, widths: list[int], depths: list[int], dim: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(dim, widths[-1], 3, padding=1)]
        for stage in range(len(widths) - 1, -1, -1):
            layers += [Block(widths[stage]) for _ in range(depths[stage])]
            if stage:
                layers += [nn.Conv2d(widths[stage], 4 * widths[stage - 1], 3, padding=1), nn.PixelShuffle(2)]
        layers += [RMSNorm(widths[0]), nn.Conv2d(widths[0], 3 * patch**2, 3, padding=1), nn.PixelShuffle(patch)]
        super().__init__(*layers)


def receptive_field(encoder: nn.Module) -> int:
    """Side in pixels of the window that one output of stacked convolutions depends on."""
    pixels, jump = 1, 1
    for layer in encoder.modules():
        if isinstance(layer, nn.PixelUnshuffle):
            pixels, jump = layer.downscale_factor, layer.downscale_factor
        elif isinstance(layer, nn.Conv2d):
            pixels += (layer.kernel_size[0] - 1) * jump
            jump *= layer.stride[0]
    return pixels


class Autoencoder(LatentCodec):
    """An image codec: local encoder, any quantizer, local decoder.

    stride          pixels per code and axis, a power of two
    patch           side of the patches that the first layer takes; stride = patch · 2^(stages − 1)
    widths          channels of each stage, finest first
    depths          residual blocks of each stage in the encoder
    decoder_depths  the same in the decoder (default: as the encoder)
    """

    def __init__(
        self, quantizer: Quantizer, *, stride: int, patch: int, widths: list[int], depths: list[int],
        decoder_depths: list[int] | None = None,
    ) -> None:  # fmt: skip
        decoder_depths = depths if decoder_depths is None else decoder_depths
        _stages(stride, patch, widths, depths)
        _stages(stride, patch, widths, decoder_depths)
        spec = CodeSpec(
            Modality.IMAGE, quantizer.sizes, (stride, stride), channels=3, sample_rate=None, total=True,
            ordered=quantizer.ordered, causal=False,
        )  # fmt: skip
        super().__init__(spec, quantizer)
        self.encoder = Encoder(patch, widths, depths, quantizer.dim)
        self.decoder = Decoder(patch, widths, decoder_depths, quantizer.dim)
        self.to(memory_format=torch.channels_last)

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the window that one code depends on."""
        return receptive_field(self.encoder)

    def analyze(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) in [0, 1] → latents (batch, dim, *grid); edges replicated up to the stride."""
        x = batches.pad_to_stride(x, self.spec.stride[0])
        return self.encoder((x * 2 - 1).contiguous(memory_format=torch.channels_last))

    def synthesize(self, latents: Tensor) -> Tensor:
        """Quantised latents → images, not yet cropped or clamped."""
        return (self.decoder(latents.contiguous(memory_format=torch.channels_last)) + 1) / 2
