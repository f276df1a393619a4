"""Network of the VQGAN family: residual blocks with group norms, attention at chosen stages, one codebook.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841). Taming VQGAN, the VQ models
of latent diffusion, Chameleon, LlamaGen and Janus share this network and differ in its sizes. Group norms and attention
depend on the whole image, so these codecs are not local.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import batches
from ..codec import LatentCodec
from ..layers import FeatureMap, GroupNorm, inference, tracing
from ..quantizers import Quantizer, product
from ..types import Codes, CodeSpec, Modality
from ..validate import are_integers, is_integer, require_integer

MAX_WIDTH, MAX_STAGES, MAX_BLOCKS = 4096, 8, 16
MAX_WEIGHTS = 2**30
"""Most weights of all convolutions (4 GiB). Published networks have 7·10^7."""
MAX_SCORES = 2**24
"""Most attention scores in memory (64 MiB). PyTorch's kernel materializes them."""


class GroupNormBlock(nn.Module):
    """Pre-norm residual block of two 3×3 convolutions."""

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = GroupNorm(groups, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        h = inference.convolve(x, self.conv1, self.norm1)
        return inference.convolve(h, self.conv2, self.norm2, self.shortcut(x))


class PixelAttention(nn.Module):
    """Pre-norm self-attention with one head over all positions. Memory is linear in the number of positions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        h = inference.normalize(x, self.norm)
        q, k, v = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        parts = tracing.chunks(q, MAX_SCORES // k.shape[2], 2)
        out = torch.cat([F.scaled_dot_product_attention(part, k, v) for part in parts], 2)
        return x + self.project(out[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


class PaddedDownsample(nn.Module):
    """Strided convolution to half the size, with zero padding at the bottom and right only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: FeatureMap) -> FeatureMap:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class NearestUpsample(nn.Module):
    """Nearest-neighbor interpolation to twice the size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        return inference.upsample(x, self.conv)


class VQGANStage(nn.Module):
    """Residual blocks at one resolution, optionally with attention after each, then a change of resolution."""

    def __init__(
        self, before: int, after: int, blocks: int, groups: int, attends: bool, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(GroupNormBlock(before if i == 0 else after, after, groups) for i in range(blocks))
        self.attentions = nn.ModuleList(PixelAttention(after, groups) for _ in range(blocks if attends else 0))
        self.resample = nn.Identity() if resample is None else resample

    def forward(self, x: FeatureMap) -> FeatureMap:
        for block, attention in itertools.zip_longest(self.blocks, self.attentions):
            x = block(x)
            x = x if attention is None else attention(x)
        return self.resample(x)


def _middle(channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        GroupNormBlock(channels, channels, groups),
        PixelAttention(channels, groups),
        GroupNormBlock(channels, channels, groups),
    )


class VQGANEncoder(nn.Module):
    """Images (batch, 3, height, width) in [-1, 1] → latents (batch, dim, *grid)."""

    def __init__(
        self, widths: list[int], blocks: int, attention: list[int], latents: int, dim: int, groups: int
    ) -> None:
        super().__init__()
        first, *outputs = widths
        self.conv_in = nn.Conv2d(3, first, 3, padding=1)
        last = len(outputs) - 1
        self.stages = nn.Sequential(*(
            VQGANStage(
                before, after, blocks, groups, i in attention, None if i == last else PaddedDownsample(after)
            )
            for i, (before, after) in enumerate(itertools.pairwise(widths))
        ))  # fmt: skip
        self.middle = _middle(widths[-1], groups)
        self.norm_out = GroupNorm(groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latents, 3, padding=1)
        self.project = nn.Conv2d(latents, dim, 1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        x = self.middle(self.stages(self.conv_in(x)))
        return self.project(inference.convolve(x, self.conv_out, self.norm_out))


class VQGANDecoder(nn.Module):
    """Quantized latents → images (batch, 3, height, width) around [-1, 1]. Stages run from coarse to fine."""

    def __init__(
        self, widths: list[int], blocks: int, attention: list[int], latents: int, dim: int, groups: int
    ) -> None:
        super().__init__()
        outputs = widths[:0:-1]
        last = len(outputs) - 1
        self.project = nn.Conv2d(dim, latents, 1)
        self.conv_in = nn.Conv2d(latents, outputs[0], 3, padding=1)
        self.middle = _middle(outputs[0], groups)
        self.stages = nn.Sequential(*(
            VQGANStage(
                before, after, blocks + 1, groups, last - i in attention, None if i == last else NearestUpsample(after)
            )
            for i, (before, after) in enumerate(itertools.pairwise([outputs[0], *outputs]))
        ))  # fmt: skip
        self.norm_out = GroupNorm(groups, outputs[-1])
        self.conv_out = nn.Conv2d(outputs[-1], 3, 3, padding=1)

    def forward(self, latents: FeatureMap) -> FeatureMap:
        x = self.stages(self.middle(self.conv_in(self.project(inference.enter(latents)))))
        return inference.convolve(x, self.conv_out, self.norm_out)


class VQAutoencoder(product.OfficialIndex, LatentCodec):
    """Image codec of the VQGAN family: an encoder, one codebook and a decoder.

    The stride is 2^(stages − 1). Edges are replicated up to whole strides. A codebook of more than 2^14 entries is
    split into two quantizers; see `official_index`.

    Args:
        quantizer: The codebook.
        channels: Channels of the finest stage.
        multipliers: Channels of each stage as a multiple of `channels`, finest stage first.
        blocks: Residual blocks of each stage in the encoder; the decoder has one more.
        attention: Stages with attention after each block; 0 is the finest. The middle always has attention.
        latents: Channels between the networks and the projections of the codebook.
        groups: Groups of every norm; 32 in published networks.
    """

    def __init__(
        self, quantizer: Quantizer, *, channels: int = 128, multipliers: list[int] = (1, 1, 2, 2, 4), blocks: int = 2,
        attention: list[int] = (4,), latents: int = 256, groups: int = 32,
    ) -> None:  # fmt: skip
        _check(channels, multipliers, blocks, attention, latents, groups)
        (entries,) = quantizer.sizes
        stride = 2 ** (len(multipliers) - 1)
        super().__init__(CodeSpec(Modality.IMAGE, product.factors(entries), (stride, stride), channels=3), quantizer)
        widths = [channels, *(channels * m for m in multipliers)]
        self.encoder = VQGANEncoder(widths, blocks, list(attention), latents, quantizer.dim, groups)
        self.decoder = VQGANDecoder(widths, blocks, list(attention), latents, quantizer.dim, groups)

    def analyze(self, x: Tensor) -> Tensor:
        x = batches.pad_to_stride(x, self.spec.stride[0])
        # not channels_last, which has five to ten times the rounding errors in group norms: codes must not change
        return self.encoder((x * 2 - 1).contiguous())

    def synthesize(self, latents: Tensor) -> Tensor:
        return (self.decoder(latents) + 1) / 2

    def encode_indices(self, x: Tensor, setting: None) -> Tensor:
        return self.from_official(super().encode_indices(x, setting)[:, 0])

    def _embed(self, codes: Codes) -> Tensor:
        return super()._embed(Codes(self.official_index(codes)[:, None], codes.sizes))


def _check(channels: Any, multipliers: Any, blocks: Any, attention: Any, latents: Any, groups: Any) -> None:
    """Raise ValueError if the sizes do not fit together or exceed the limits."""
    if not is_integer(channels, 1, MAX_WIDTH) or not is_integer(groups, 1, MAX_WIDTH) or channels % groups:
        raise ValueError(
            f"channels must be a multiple of groups from 1 to {MAX_WIDTH}, got {channels!r:.80} channels and "
            f"{groups!r:.80} groups"
        )
    if not are_integers(multipliers, 1, MAX_WIDTH // channels, longest=MAX_STAGES):
        raise ValueError(
            f"multipliers must be 1 to {MAX_STAGES} integers from 1 to {MAX_WIDTH // channels} for {channels} "
            f"channels, got {multipliers!r:.80}"
        )
    require_integer("blocks", blocks, 1, MAX_BLOCKS)
    stages = range(len(multipliers))
    if not isinstance(attention, list | tuple) or not all(is_integer(i, 0, stages[-1]) for i in attention):
        raise ValueError(f"attention must list stages from 0 to {stages[-1]}, got {attention!r:.80}")
    require_integer("latents", latents, 1, MAX_WIDTH)
    weights = sum((2 * blocks + 1) * 18 * (channels * m) ** 2 for m in multipliers)
    if weights > MAX_WEIGHTS:
        raise ValueError(
            f"a network must have at most {MAX_WEIGHTS:.1e} weights, got {weights:.1e} from {channels} channels × "
            f"{multipliers} × {blocks} blocks"
        )
