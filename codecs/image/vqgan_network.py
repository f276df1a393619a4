"""The network of the VQGAN family: residual blocks with group norms, attention at chosen stages, a codebook between.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841); taming VQGAN, the VQ models
of latent diffusion, Chameleon, LlamaGen and Janus have this one network and differ in its sizes. Group norms and
attention see the whole picture, so these codecs are not local.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .. import batches, foreign
from ..codec import LatentCodec
from ..quantizers import MAX_CODEBOOK, Quantizer
from ..types import Codes, CodeSpec, Modality
from ..validate import are_integers, is_integer

MAX_WIDTH, MAX_STAGES, MAX_BLOCKS = 4096, 8, 16
MAX_WEIGHTS = 2**30
"""Weights of all convolutions (4 GiB); the published networks have 7·10^7."""
MAX_SCORES = 2**24
"""Attention scores of one picture at a time (64 MiB), where PyTorch's kernel writes them out."""
EPSILON = 1e-6

Picture = Float[Tensor, "batch channels height width"]


class GroupNorm(nn.GroupNorm):
    """PyTorch's, for a single value in a group too, which it refuses (a picture within one code)."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels, EPSILON)

    def forward(self, x: Picture) -> Picture:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def swish(x: Picture) -> Picture:
    """In two steps, as the official code has it: F.silu rounds differently."""
    return x * torch.sigmoid(x)


class Block(nn.Module):
    """Pre-norm residual block of two 3×3 convolutions."""

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = GroupNorm(groups, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Picture) -> Picture:
        h = self.conv1(swish(self.norm1(x)))
        return self.shortcut(x) + self.conv2(swish(self.norm2(h)))


class Attention(nn.Module):
    """Pre-norm self-attention of one head over all positions; memory grows with their number, not with its square."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Picture) -> Picture:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        rows = max(1, MAX_SCORES // k.shape[2])
        out = torch.cat([F.scaled_dot_product_attention(part, k, v) for part in q.split(rows, 2)], 2)
        return x + self.project(out[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Half the size; a row and a column of zeros go below and to the right, none above and to the left."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Picture) -> Picture:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size: nearest neighbours, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Picture) -> Picture:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """Residual blocks at one resolution, each with attention behind it or none has, then a change of resolution."""

    def __init__(
        self, before: int, after: int, blocks: int, groups: int, attends: bool, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(before if i == 0 else after, after, groups) for i in range(blocks))
        self.attentions = nn.ModuleList(Attention(after, groups) for _ in range(blocks if attends else 0))
        self.resample = nn.Identity() if resample is None else resample

    def forward(self, x: Picture) -> Picture:
        for block, attention in itertools.zip_longest(self.blocks, self.attentions):
            x = block(x)
            x = x if attention is None else attention(x)
        return self.resample(x)


def _middle(channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        Block(channels, channels, groups), Attention(channels, groups), Block(channels, channels, groups)
    )


class Encoder(nn.Module):
    """(batch, 3, h, w) in [-1, 1] → latents (batch, dim, h / stride, w / stride)."""

    def __init__(self, widths: list[int], blocks: int, attention: list[int], latents: int, dim: int, groups: int):
        super().__init__()
        first, *outputs = widths
        self.conv_in = nn.Conv2d(3, first, 3, padding=1)
        last = len(outputs) - 1
        self.stages = nn.Sequential(*(
            Stage(before, after, blocks, groups, i in attention, None if i == last else Downsample(after))
            for i, (before, after) in enumerate(itertools.pairwise(widths))
        ))  # fmt: skip
        self.middle = _middle(widths[-1], groups)
        self.norm_out = GroupNorm(groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latents, 3, padding=1)
        self.project = nn.Conv2d(latents, dim, 1)

    def forward(self, x: Picture) -> Picture:
        x = self.middle(self.stages(self.conv_in(x)))
        return self.project(self.conv_out(swish(self.norm_out(x))))


class Decoder(nn.Module):
    """Quantised latents → (batch, 3, h, w) around [-1, 1]; stages run from the coarsest to the finest."""

    def __init__(self, widths: list[int], blocks: int, attention: list[int], latents: int, dim: int, groups: int):
        super().__init__()
        outputs = widths[:0:-1]
        last = len(outputs) - 1
        self.project = nn.Conv2d(dim, latents, 1)
        self.conv_in = nn.Conv2d(latents, outputs[0], 3, padding=1)
        self.middle = _middle(outputs[0], groups)
        self.stages = nn.Sequential(*(
            Stage(before, after, blocks + 1, groups, last - i in attention, None if i == last else Upsample(after))
            for i, (before, after) in enumerate(itertools.pairwise([outputs[0], *outputs]))
        ))  # fmt: skip
        self.norm_out = GroupNorm(groups, outputs[-1])
        self.conv_out = nn.Conv2d(outputs[-1], 3, 3, padding=1)

    def forward(self, latents: Picture) -> Picture:
        x = self.stages(self.middle(self.conv_in(self.project(latents))))
        return self.conv_out(swish(self.norm_out(x)))


def _check(channels: Any, multipliers: Any, blocks: Any, attention: Any, latents: Any, groups: Any) -> None:
    """One line for sizes that make no network, or one beyond memory."""
    if not is_integer(channels, 1, MAX_WIDTH) or not is_integer(groups, 1, MAX_WIDTH) or channels % groups:
        raise ValueError(
            f"channels {channels!r:.80} are not 1 to {MAX_WIDTH} that divide into {groups!r:.80} groups of a norm"
        )
    if not are_integers(multipliers, 1, MAX_WIDTH // channels, longest=MAX_STAGES):
        raise ValueError(
            f"multipliers are 1 to {MAX_STAGES} whole numbers from 1 to {MAX_WIDTH // channels} for {channels} "
            f"channels, not {multipliers!r:.80}"
        )
    if not is_integer(blocks, 1, MAX_BLOCKS):
        raise ValueError(f"a stage has 1 to {MAX_BLOCKS} residual blocks, not {blocks!r:.80}")
    stages = range(len(multipliers))
    if not isinstance(attention, list | tuple) or not all(is_integer(i, 0, stages[-1]) for i in attention):
        raise ValueError(f"attention lists stages from 0, the finest, to {stages[-1]}, not {attention!r:.80}")
    if not is_integer(latents, 1, MAX_WIDTH):
        raise ValueError(f"latents {latents!r:.80} are no whole number of channels from 1 to {MAX_WIDTH}")
    weights = sum((2 * blocks + 1) * 18 * (channels * m) ** 2 for m in multipliers)
    if weights > MAX_WEIGHTS:
        raise ValueError(f"{channels} channels × {multipliers} × {blocks} blocks: {weights:.1e} weights are too many")


def split(entries: int) -> tuple[int, ...]:
    """Codebook sizes, at most 2^14 each, that one index of `entries` values is told in; their product is `entries`."""
    if entries <= MAX_CODEBOOK:
        return (entries,)
    for size in range(math.isqrt(entries), 1, -1):
        if entries % size == 0 and entries // size <= MAX_CODEBOOK:
            return (size, entries // size)
    raise ValueError(f"a codebook of {entries} entries is not the product of two of at most {MAX_CODEBOOK}")


class VQAutoencoder(LatentCodec):
    """Encoder, one codebook, decoder.

    channels     of the finest stage; multipliers  of them in each stage, finest first: the stride is 2^(stages − 1)
    blocks       residual blocks of each stage in the encoder; the decoder has one more
    attention    stages with attention behind each block, 0 the finest; the middle, at the coarsest, always has it
    latents      channels between encoder and codebook, and between codebook and decoder
    groups       of every group norm; 32 in all that is published

    Pictures are replicated at the bottom and right up to whole strides, and cropped after decoding. An index beyond
    2^14 entries is told by two quantizers, see `official_index`.
    """

    def __init__(
        self, quantizer: Quantizer, *, channels: int = 128, multipliers: list[int] = (1, 1, 2, 2, 4), blocks: int = 2,
        attention: list[int] = (4,), latents: int = 256, groups: int = 32,
    ) -> None:  # fmt: skip
        _check(channels, multipliers, blocks, attention, latents, groups)
        (entries,) = quantizer.sizes
        stride = 2 ** (len(multipliers) - 1)
        spec = CodeSpec(
            Modality.IMAGE, split(entries), (stride, stride), channels=3, sample_rate=None, total=True, ordered=False,
            causal=False,
        )  # fmt: skip
        super().__init__(spec, quantizer)
        widths = [channels, *(channels * m for m in multipliers)]
        self.encoder = Encoder(widths, blocks, list(attention), latents, quantizer.dim, groups)
        self.decoder = Decoder(widths, blocks, list(attention), latents, quantizer.dim, groups)
        # not channels_last: it saves a quarter of the time, and rounds five to ten times as much as the official code

    def analyze(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) in [0, 1] → latents (batch, dim, *grid); edges replicated up to the stride."""
        x = batches.pad_to_stride(x, self.spec.stride[0])
        return self.encoder((x * 2 - 1).contiguous())

    def synthesize(self, latents: Tensor) -> Tensor:
        """Quantised latents → images, not yet cropped or clamped."""
        return (self.decoder(latents.contiguous()) + 1) / 2

    def official_index(self, codes: Codes | Tensor) -> Tensor:
        """Codes, or their indices → rows of the one codebook, (batch, *grid) int64.

        Where two quantizers tell it: first + (entries of the first) · second.
        """
        indices = codes.indices if isinstance(codes, Codes) else codes
        first, *second = indices.unbind(1)
        return first + self.spec.codebook_sizes[0] * second[0] if second else first

    def from_official(self, index: Tensor) -> Tensor:
        """The inverse: rows of the one codebook (batch, *grid) int64 → `Codes.indices` (batch, quantizers, *grid)."""
        size = self.spec.codebook_sizes[0]
        return torch.stack([index] if len(self.spec.codebook_sizes) == 1 else [index % size, index // size], 1)

    def _encode(self, x: Tensor, setting: None) -> Codes:
        codes = super()._encode(x, setting)
        return Codes(self.from_official(codes.indices[:, 0]), codes.sizes)

    def _decode(self, codes: Codes) -> Tensor:
        return batches.decode_by_size(super()._decode, codes, self.spec)

    def embed(self, codes: Codes) -> Tensor:
        return super().embed(Codes(self.official_index(codes)[:, None], codes.sizes))


# -- published state dicts ------------------------------------------------------------------------

NAMES = (
    (r"\.mid\.(?:block_1|0)\.", ".middle.0."), (r"\.mid\.(?:attn_1|1)\.", ".middle.1."),
    (r"\.mid\.(?:block_2|2)\.", ".middle.2."), (r"\.(?:down|up|conv_blocks)\.(\d+)\.", r".stages.\1."),
    (r"\.(?:block|res)\.", ".blocks."), (r"\.attn\.", ".attentions."), (r"\.(?:down|up)sample\.", ".resample."),
    (r"\.nin_shortcut\.", ".shortcut."), (r"\.proj_out\.", ".project."),
    (r"^quant_conv\.", "encoder.project."), (r"^post_quant_conv\.", "decoder.project."),
)  # fmt: skip
"""What taming-transformers, LlamaGen and transformers' Janus call a layer, and what it is here."""
PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
MARK = "post_quant_conv.weight"


def generator(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Encoder, codebook and decoder of a checkpoint, wherever in a larger model they are; under their own names."""
    prefixes = sorted({name.removesuffix(MARK) for name in state if name == MARK or name.endswith("." + MARK)})
    if len(prefixes) != 1:
        found = f"several, under {', '.join(prefixes)}" if prefixes else f"none: no {MARK}"
        raise ValueError(f"{source} should hold one VQGAN, and holds {found}")
    own = {n.removeprefix(prefixes[0]): v for n, v in state.items() if n.startswith(prefixes[0])}
    if "quantize.used" in own:
        raise ValueError(f"{source} maps its indices to a subset (quantize.used), which is not taken")
    if not {"decoder.mid.attn_1.q.weight", "decoder.mid.1.q.weight"} & set(own):
        raise ValueError(f"{source} has no attention in the middle of its decoder: it is none of this family")
    return {name: value for name, value in own.items() if name.startswith(PARTS)}


def renamed(state: Mapping[str, Tensor], *, finest_first: bool = False) -> dict[str, Tensor]:
    """A published state dict under our names.

    finest_first  the decoder's stages are numbered from full resolution (taming), not in the order that they run in
    """
    last = max((int(m[1]) for name in state if (m := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    out = {}
    for name, value in state.items():
        if finest_first:
            name = re.sub(r"^(decoder\.up\.)(\d+)", lambda m: f"{m[1]}{last - int(m[2])}", name)
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        out[name] = value
    return out


def network(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The arguments of `VQAutoencoder` from the shapes of a state dict under our names."""
    found = {int(m[1]) for name in state if (m := re.match(r"encoder\.stages\.(\d+)\.", name))}
    stages = range(len(found))
    widths = [f"encoder.stages.{i}.blocks.0.conv1.weight" for i in stages]
    shapes = foreign.sizes(state, ["encoder.conv_in.weight", "encoder.conv_out.weight", *widths])
    if found != set(stages) or any(len(shape) != 4 or shape[0] < 1 for shape in shapes):
        raise ValueError(f"{source} holds no encoder of images: stages {sorted(found)[:8]}, shapes {shapes[:2]}")
    channels = shapes[0][0]
    return {
        "channels": channels,
        "multipliers": [shape[0] // channels for shape in shapes[2:]],
        "blocks": sum(bool(re.fullmatch(r"encoder\.stages\.0\.blocks\.\d+\.conv1\.weight", name)) for name in state),
        "attention": [i for i in stages if f"encoder.stages.{i}.attentions.0.q.weight" in state],
        "latents": shapes[1][0],
    }
