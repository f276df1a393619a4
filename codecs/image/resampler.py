"""Network of `image/flex`: a transformer between an image tile and a few ordered tokens.

In the encoder, learned registers attend to the patches of the tile and become its tokens (TiTok, Yu et al., arXiv
2406.07550). In the decoder, learned patch queries attend to the tokens and become the tile. A linear map of the whole
tile is added to both; `start` sets it to the principal components of the data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..layers import ConvBlock
from ..quantizers import Quantizer

HEAD = 64
"""Channels of one attention head."""
THIN = 24
"""Channels of a patch in the linear map of the whole tile."""
GAIN = 4.0
"""Initial scale of latents, large enough that quantization keeps the differences between images."""
SPREAD = 0.8
"""Standard deviation of a principal component before FSQ bounds it by ±1 (tanh)."""

Tokens = Float[Tensor, "batch tokens width"]


class TokenNorm(nn.Module):
    """Root-mean-square norm of each token (arXiv 1910.07467). The output has the type of the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tokens) -> Tokens:
        dtype = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).square()
        scale = torch.rsqrt(squares / x.shape[-1] + 1e-6)
        return x * scale.to(x.dtype) * self.gain.to(x.dtype)


class ResamplerBlock(nn.Module):
    """Pre-norm residual block: attention of queries to themselves and a context, then an MLP."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = TokenNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.pair = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.second_norm = TokenNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tokens, context: Float[Tensor, "batch context width"]) -> Tokens:
        normed = self.norm(x)
        key, value = self.pair(torch.cat([normed, context.to(normed.dtype)], 1)).chunk(2, -1)
        heads = [t.unflatten(-1, (-1, HEAD)).transpose(1, 2) for t in (self.query(normed), key, value)]
        scores = (heads[0] * HEAD**-0.5) @ heads[1].transpose(-1, -2)
        mixed = scores.softmax(-1) @ heads[2]  # on a CPU, a third of the time of the fused kernel
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(self.second_norm(x))))


class TileEncoder(nn.Module):
    """Tiles (batch, 3, tile, tile) in [−1, 1] → latents (batch, dim, tokens)."""

    def __init__(self, side: int, patch: int, width: int, depth: int, tokens: int, dim: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(patch // 2),
            nn.Conv2d(3 * (patch // 2) ** 2, width // 2, 3, padding=1),
            ConvBlock(width // 2),
            nn.Conv2d(width // 2, width, 2, stride=2),
        )
        self.place = nn.Parameter(nn.init.normal_(torch.empty(side**2, width), std=0.02))
        self.thin = nn.Conv2d(3, THIN, patch, stride=patch)
        self.whole = nn.Linear(THIN * side**2, dim * tokens)
        nn.init.normal_(self.whole.weight, std=GAIN * (THIN * side**2) ** -0.5)
        self.widen = nn.Linear(dim, width)
        self.registers = nn.Parameter(nn.init.normal_(torch.empty(tokens, width), std=0.02))
        self.blocks = nn.ModuleList(ResamplerBlock(width, 2) for _ in range(depth))
        self.context_norm, self.norm = TokenNorm(width), TokenNorm(width)
        self.head = nn.Linear(width, dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim tokens"]:
        patches = self.stem(x.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)
        patches = patches + self.place.to(patches.dtype)
        linear = self.whole(self.thin(x).flatten(1)).unflatten(1, (self.tokens, -1))
        registers = self.widen(linear) + self.registers.to(linear.dtype)
        context = self.context_norm(patches)
        for block in self.blocks:
            registers = block(registers, context)
        return (linear + self.head(self.norm(registers))).transpose(1, 2)


class TileDecoder(nn.Module):
    """Latents (batch, dim, tokens) and the mask of kept tokens → tiles (batch, 3, tile, tile) in about [−1, 1]."""

    def __init__(self, side: int, patch: int, width: int, depth: int, tokens: int, dim: int) -> None:
        super().__init__()
        self.side = side
        self.whole = nn.Linear((dim + 1) * tokens, THIN * side**2)
        self.thick = nn.ConvTranspose2d(THIN, 3, patch, stride=patch)
        self.widen = nn.Linear(THIN, width)
        self.place = nn.Parameter(nn.init.normal_(torch.empty(side**2, width), std=0.02))
        self.token = nn.Linear(dim + 1, width)
        self.rank = nn.Parameter(nn.init.normal_(torch.empty(tokens, width), std=0.02))
        self.blocks = nn.ModuleList(ResamplerBlock(width, 2) for _ in range(depth))
        self.context_norm, self.norm = TokenNorm(width), TokenNorm(width)
        self.grow = nn.Linear(width, 2 * width)
        self.refine = nn.Sequential(
            ConvBlock(width // 2),
            nn.Conv2d(width // 2, 3 * (patch // 2) ** 2, 3, padding=1),
            nn.PixelShuffle(patch // 2),
        )
        nn.init.zeros_(self.refine[1].weight)
        nn.init.zeros_(self.refine[1].bias)

    def forward(
        self, latents: Float[Tensor, "batch dim tokens"], kept: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch 3 height width"]:
        flag = kept.unsqueeze(-1).to(latents.dtype)
        known = torch.cat([latents.transpose(1, 2) * flag, flag], -1)
        linear = self.whole(known.flatten(1)).unflatten(1, (THIN, self.side, self.side))
        x = self.widen(linear.flatten(2).transpose(1, 2))
        x = x + self.place.to(x.dtype)
        context = self.context_norm(self.token(known) + self.rank.to(x.dtype))
        for block in self.blocks:
            x = block(x, context)
        x = self.grow(self.norm(x)).transpose(1, 2).unflatten(2, (self.side, self.side))
        fine = self.refine(F.pixel_shuffle(x, 2).contiguous(memory_format=torch.channels_last))
        return self.thick(linear) + fine


@torch.no_grad()
def start(encoder: TileEncoder, decoder: TileDecoder, quantizer: Quantizer, x: Tensor) -> None:
    """Set the linear maps to the principal components of tiles (batch, 3, tile, tile) in [−1, 1].

    The first map has the components of single patches, the second those of all patches of a tile. Each component is
    scaled to a standard deviation of SPREAD. The decoder's gain of a component fits its quantized values best.
    """
    patch = encoder.thin.stride[0]
    axes, _ = _components(F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2).flatten(0, 1), THIN)
    for layer in (encoder.thin, decoder.thick):
        layer.weight[: len(axes)] = axes.unflatten(1, (3, patch, patch))
        layer.bias.zero_()
    thin = encoder.thin(x).flatten(1)
    mean = thin.mean(0)
    axes, spread = _components(thin - mean, encoder.whole.out_features)
    count = len(axes)
    encoder.whole.weight[:count] = axes * (SPREAD / spread)[:, None]
    encoder.whole.bias[:count] = -encoder.whole.weight[:count] @ mean
    latents = encoder.whole(thin).unflatten(1, (encoder.tokens, -1)).transpose(1, 2)
    quantized = quantizer.lookup(quantizer.search(latents)).transpose(1, 2).flatten(1)[:, :count]
    latents = (thin - mean) @ axes.T
    gain = (latents * quantized).sum(0) / quantized.square().sum(0).clamp_min(1e-6)
    decoder.whole.weight.zero_()
    columns = decoder.whole.weight.unflatten(1, (encoder.tokens, -1))[:, :, :-1].flatten(1)
    columns[:, :count] = axes.T * gain
    decoder.whole.weight.unflatten(1, (encoder.tokens, -1))[:, :, :-1] = columns.unflatten(1, (encoder.tokens, -1))
    decoder.whole.bias.copy_(mean)


def _components(rows: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the principal axes (components, channels) of rows, and the standard deviation along each."""
    count, channels = rows.shape
    few = channels <= count
    values, vectors = torch.linalg.eigh(rows.T @ rows if few else rows @ rows.T)
    values, vectors = values.flip(0)[:most], vectors.flip(1)[:, :most]
    good = values > 1e-6 * values[0].clamp_min(1e-12)
    values, vectors = values[good], vectors[:, good]
    axes = vectors.T if few else (rows.T @ vectors / values.sqrt()).T
    return axes, (values / count).sqrt()
