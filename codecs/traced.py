"""A codec as two modules of plain tensors, such that one trace holds for signals of every size.

PyTorch traces what the arguments it is shown lead to: a padding that is skipped, a loop over the frames of an LSTM.
Here is said otherwise what would be true of the example alone. The numbers stay those of the codec.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .audio import seanet
from .codec import LatentCodec
from .image.flex import Flex
from .image.magvit2 import EPSILON, AdaptiveGroupNorm
from .image.ntc import NTC, step
from .image.taming import Gumbel
from .image.vqgan_network import Attention, VQAutoencoder
from .quantizers import Quantizer, ResidualVQ
from .types import Codes, Modality


class Encoder(nn.Module):
    """Signals (batch, channels, *size) float32 of any size → indices (batch, quantizers, *grid) int64.

    quantizers  used at this setting, where the codec is ordered
    The grid is ceil(size / stride). Of `image/flex` it is that of its tiles, with their tokens in place of quantizers.
    """

    def __init__(self, codec: LatentCodec, setting: Any, quantizers: int) -> None:
        super().__init__()
        self.codec, self.setting, self.quantizers = traceable(codec), setting, quantizers

    def forward(self, signal: Tensor) -> Tensor:
        codec = self.codec
        if isinstance(codec, Flex):
            tiles = _tiles(_whole(signal, (codec.tile, codec.tile)), codec.tile)
            tokens = codec.quantizer.search(codec.analyze(tiles.flatten(0, 2)))[:, 0, : self.setting]
            return tokens.unflatten(0, tiles.shape[:3]).permute(0, 3, 1, 2)
        if codec.spec.modality is Modality.IMAGE:
            signal = _whole(signal, codec.spec.stride)
        latents = codec.analyze(signal)
        if isinstance(codec, NTC):
            latents = latents / step(self.setting)
        indices = _search(codec.quantizer, latents, self.quantizers)
        return codec.from_official(indices[:, 0]) if isinstance(codec, VQAutoencoder) else indices


class Decoder(nn.Module):
    """Indices as `Encoder` gives them → signals (batch, channels, *(grid · stride)) float32, clamped to range.

    −1 stands for a quantizer that is left out, where the codec is ordered. Of `image/flex` the tokens of a tile may
    be fewer than all it has, and end with −1; the size is that of all tiles together.
    """

    def __init__(self, codec: LatentCodec, setting: Any) -> None:
        super().__init__()
        self.codec, self.setting = traceable(codec), setting
        self.lowest = -1.0 if codec.spec.modality is Modality.AUDIO else 0.0

    def forward(self, indices: Tensor) -> Tensor:
        codec = self.codec
        if isinstance(codec, Flex):
            return self._tiled(indices)
        sizes = torch.zeros(1, len(codec.spec.stride), dtype=torch.int64)
        side = {name: indices.new_full(indices.shape[:1], self.setting, dtype=torch.float32)
                for name in codec.side_shapes((1,) * len(codec.spec.stride))}  # fmt: skip
        return codec.synthesize(codec.embed(Codes(indices, sizes, None, side))).float().clamp(self.lowest, 1.0)

    def _tiled(self, indices: Tensor) -> Tensor:
        codec = self.codec
        batch, _, rows, columns = indices.shape
        missing = indices.new_full((batch, codec.tokens, rows, columns), -1)
        tokens = torch.cat([indices, missing], 1).narrow(1, 0, codec.tokens).permute(0, 2, 3, 1).flatten(0, 2)
        known = ((tokens < 0) | (tokens == codec.end)).long().cumsum(1) == 0
        painted = codec._paint(codec.quantizer.lookup(tokens.where(known, 0)[:, None]), known).clamp(0, 1)
        grid = painted.reshape(batch, rows, columns, 3, codec.tile, codec.tile).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(batch, 3, rows * codec.tile, columns * codec.tile)


def traceable(codec: LatentCodec) -> LatentCodec:
    """A copy on the CPU whose parts are traced as they are at every size."""
    codec = copy.deepcopy(codec).cpu().eval().requires_grad_(False)
    for module in list(codec.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LSTM):
                setattr(module, name, Recurrence(child))
            elif isinstance(child, seanet.Conv1d) and child.layers.reflect:
                setattr(module, name, Mirrored(child))
            elif isinstance(child, Attention):
                setattr(module, name, WholeAttention(child))
            elif isinstance(child, nn.GroupNorm):
                setattr(module, name, TwoPassNorm(child))
            elif isinstance(child, AdaptiveGroupNorm):
                setattr(module, name, AdaptiveNorm(child))
    if isinstance(codec, NTC):  # it looks at the numbers, of which there are none before the program runs
        codec._quality = lambda side: side["quality"]
    return codec


class Recurrence(nn.Module):
    """An LSTM from a state of zeros (frames, batch, channels) → the same, as a scan: PyTorch's own is unrolled."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        if lstm.bidirectional or lstm.batch_first or lstm.proj_size or not lstm.bias:
            raise ValueError(f"{lstm} is exported only with frames first, biases, and in one direction")
        self.lstm = lstm

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        from torch._higher_order_ops.scan import scan

        for layer in range(self.lstm.num_layers):
            across, back, bias, more = (
                getattr(self.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            gates = F.linear(x, across, bias + more)

            def advance(state: tuple[Tensor, Tensor], gate: Tensor, back: Tensor = back) -> tuple[tuple, Tensor]:
                hidden, cell = state
                enter, forget, new, leave = (gate + hidden @ back.T).chunk(4, -1)
                cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
                hidden = leave.sigmoid() * cell.tanh()
                return (hidden, cell), hidden.clone()

            zeros = x.new_zeros(x.shape[1], self.lstm.hidden_size)
            _, x = scan(advance, (zeros, zeros.clone()), gates)
        return x, None


class Mirrored(nn.Module):
    """A convolution that continues a signal by its mirror image, with the positions computed and not chosen."""

    def __init__(self, conv: seanet.Conv1d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv, samples = self.conv, x.shape[-1]
        if not conv.padding and conv.stride == 1:
            return conv.norm(conv.conv(x))
        right = 0 if conv.layers.causal else conv.padding // 2
        left = conv.padding - right
        whole = (samples + conv.stride - 1) // conv.stride * conv.stride
        count = torch.full((), samples)
        mirror = torch.maximum(count, 1 + torch.maximum(torch.full((), left), right + whole - count)) - 1
        place = (torch.arange(left + whole + right) - left).abs()
        place = mirror - (mirror - place).abs()
        padded = x.index_select(-1, place.clamp_max(samples - 1)) * (place < samples)
        return conv.norm(conv.conv(padded))


class TwoPassNorm(nn.Module):
    """Group norm whose variance is the mean of squared distances: ONNX Runtime's own is NaN for groups of one value."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm, groups = self.norm, x.unflatten(1, (self.norm.num_groups, -1)).flatten(2)
        centred = groups - groups.mean(2, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(2, keepdim=True) + norm.eps)
        x = (centred * scale).reshape(x.shape)
        if norm.affine:
            shape = (-1,) + (1,) * (x.ndim - 2)
            x = x * norm.weight.reshape(shape) + norm.bias.reshape(shape)
        return x


class AdaptiveNorm(nn.Module):
    """The variance of codewords over a picture of one is 0, and that of a trace's example is not the rule."""

    def __init__(self, norm: AdaptiveGroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        norm, words = self.norm, words.flatten(2)
        mean = words.mean(2, keepdim=True)
        others = torch.full((), words.shape[2] - 1).clamp_min(1)
        variance = (words - mean).square().sum(2) / others
        scale, shift = norm.gamma((variance + EPSILON).sqrt()), norm.beta(mean[..., 0])
        return norm.gn(x) * scale[:, :, None, None] + shift[:, :, None, None]


class WholeAttention(nn.Module):
    """Self-attention over all positions at once: into how many chunks they are cut depends on the size."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        own = self.attention
        h = own.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (own.q, own.k, own.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + own.project(out[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


def _search(quantizer: Quantizer, latents: Tensor, count: int) -> Tensor:
    """`quantizer.search`, with all positions at once."""
    if isinstance(quantizer, Gumbel):
        return quantizer.choose(latents.movedim(1, -1)).argmax(-1).unsqueeze(1)
    if not isinstance(quantizer, ResidualVQ):
        return quantizer.search(latents)
    indices, residual = [], quantizer.bounded(latents).flatten(2).transpose(1, 2)
    for q in range(min(count, len(quantizer.sizes))):
        book = quantizer._book(q)
        indices.append((book.square().sum(1) - 2 * residual @ book.T).argmin(-1))
        residual = residual - F.embedding(indices[-1], book)
    return torch.stack(indices, 1).unflatten(2, latents.shape[2:])


def _whole(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Edges replicated up to whole strides, by index: a size that needs none is no special case."""
    for axis, pixels in enumerate(stride, 2):
        samples = x.shape[axis]
        x = x.index_select(axis, torch.arange((samples + pixels - 1) // pixels * pixels).clamp_max(samples - 1))
    return x


def _tiles(x: Tensor, side: int) -> Tensor:
    """(batch, 3, height, width) → (batch, rows, columns, 3, side, side)."""
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // side, side, width // side, side)
    return parts.permute(0, 2, 4, 1, 3, 5)
