"""Interface of learned codecs for `export`, and operations whose trace is valid for every size.

`torch.export` records the branches and loop counts of its example, such as skipped padding, the chunks of a search or
the frames of an LSTM. While `exporting()`, layers compute the same values without branches or loops over the size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, _higher_order_ops, nn

from ..types import CodecInterface, Codes
from . import spans

ROUNDING = 2.0**-20
"""Bound of the rounding error of a latent in float32, relative to the longest one: the largest error measured."""


class Traceable(CodecInterface):
    """Encoder and decoder of a learned codec as functions of plain tensors, which `export` traces.

    Indices are (batch, quantizers, *positions). By default the positions are the grid of the codes.
    """

    quantizer: Any
    exact: ClassVar[bool] = False
    """Whether doubtful codes are computed in float64, if the quantizer can tell them (see exact.py)."""
    analysis: ClassVar[tuple[str, ...]] = ("encoder", "quantizer")
    """Submodules that encoding uses."""

    @property
    def invariant(self) -> bool:
        """Whether codes do not depend on batches, threads, blocks and processors (see exact.py)."""
        return self.exact and self.quantizer.decides

    def analyze(self, x: Tensor) -> Tensor:
        """Map signals (batch, channels, …) to latents (batch, dim, *grid), padded to whole strides."""
        raise NotImplementedError

    def analyze_at(self, x: Tensor, place: Sequence[int]) -> Tensor:
        """Return the latents of one position of a signal, (1, dim, 1, …), in float64; see exact.py."""
        assert self.encoder_reach is not None
        grid = self.spec.grid(tuple(x.shape[2:]))
        axes = zip(place, self.encoder_reach, grid, strict=True)
        ends = [(max(0, at - before), min(n, at + after + 1)) for at, (before, after), n in axes]
        box = [slice(a * step, b * step) for (a, b), step in zip(ends, self.spec.stride, strict=True)]
        one = [slice(at - a, at - a + 1) for at, (a, _) in zip(place, ends, strict=True)]
        return self.analyze(x[(..., *box)].double())[(..., *one)]

    def search(self, latents: Tensor, setting: Any) -> Tensor:
        """Return the indices of latents of `analyze`."""
        return self.quantizer.search(latents, setting)

    def decide(self, latents: Tensor, setting: Any) -> tuple[Tensor, Tensor]:
        """Return the indices, and where rounding in `analyze` could have changed one, bool (batch, *grid)."""
        return self.quantizer.decide(latents, setting, ROUNDING * float(latents.detach().norm(dim=1).amax()))

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map quantized latents to signals, not cropped or clamped."""
        raise NotImplementedError

    def _embed(self, codes: Codes) -> Tensor:
        """Return the quantized latents of codes of one size, float32 (batch, dim, *grid)."""
        raise NotImplementedError

    @functools.cached_property
    def encoder_reach(self) -> spans.Reach | None:
        """Codes before and after, along each axis, whose samples a code depends on; None if there is no bound."""
        stride, ones = self.spec.stride, (1,) * len(self.spec.stride)
        return self._reach(self.analyze, self.spec.channels, stride, ones)

    @functools.cached_property
    def decoder_reach(self) -> spans.Reach | None:
        """Codes before and after, along each axis, that the samples of a code depend on; None if there is no bound."""
        stride, ones = self.spec.stride, (1,) * len(self.spec.stride)
        return self._reach(self.synthesize, self.latent_channels, ones, stride)

    @torch.no_grad()
    def _reach(self, network: Any, channels: int, taken: tuple[int, ...], given: tuple[int, ...]) -> spans.Reach | None:
        if not taken:
            return None
        with torch.autocast(self.device.type, enabled=False):
            return spans.reach(network, torch.zeros(1, channels, *taken, device=self.device), taken, given)

    def working_memory(self, size: tuple[int, ...]) -> int:
        axes = len(size)
        if not self.invariant or math.prod(size) <= spans.BLOCK[axes] or (reach := self.decoder_reach) is None:
            return super().working_memory(size)
        side = int(spans.BLOCK[axes] ** (1 / axes))
        block = (min(n, side + sum(r) * s) for n, r, s in zip(size, reach, self.spec.stride, strict=True))
        return super().working_memory(tuple(block)) + 4 * self.spec.channels * math.prod(size)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents that `synthesize` takes."""
        return self.quantizer.dim

    @property
    def export_obstacle(self) -> str | None:
        """Reason why `export` cannot trace this codec; None if it can."""
        if self.spec.window is None:
            return None
        return f"it codes audio in chunks at {self.spec.sample_rate} Hz, and their number depends on the signal"

    @property
    def position_stride(self) -> tuple[int, ...]:
        """Signal samples per position along each axis."""
        return self.spec.stride

    def encode_indices(self, x: Tensor, setting: Any) -> Tensor:
        """Encode signals to indices."""
        return self.search(self.analyze(x), setting)

    def decode_indices(self, indices: Tensor, setting: Any) -> Tensor:
        """Decode indices of `encode_indices` to signals, not cropped or clamped."""
        return self.synthesize(self._embed(Codes(indices, indices.new_zeros(1, len(self.spec.stride)))))

    def indices_by_position(self, codes: Codes) -> Tensor:
        """Return the indices of equally large items in the layout of `encode_indices`."""
        return codes.indices


def exporting() -> bool:
    """Return whether `torch.export` is tracing."""
    return torch.compiler.is_exporting() if hasattr(torch.compiler, "is_exporting") else torch.compiler.is_compiling()


def chunks(x: Tensor, size: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Split `x` into parts of at most `size` along `dim`, to bound memory. Do not split while exporting."""
    return (x,) if exporting() else x.split(max(1, size), dim)


def pad_by_index(x: Tensor, axis: int, stride: int) -> Tensor:
    """Replicate the edge of `x` along `axis` up to whole strides, without a branch for sizes that need no padding."""
    size = x.shape[axis]
    return x.index_select(axis, torch.arange((size + stride - 1) // stride * stride).clamp_max(size - 1))


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Apply a group norm. ONNX Runtime's own group norm returns NaN for groups of one value."""
    groups = x.unflatten(1, (norm.num_groups, -1)).flatten(2)
    centered = groups - groups.mean(2, keepdim=True)
    scale = torch.rsqrt(centered.square().mean(2, keepdim=True) + norm.eps)
    x = (centered * scale).reshape(x.shape)
    if norm.affine:
        shape = (-1,) + (1,) * (x.ndim - 2)
        x = x * norm.weight.reshape(shape) + norm.bias.reshape(shape)
    return x


def lstm(x: Tensor, layers: nn.LSTM) -> Tensor:
    """Run an LSTM from a zero state over (frames, batch, channels) as a scan. A trace of PyTorch's own is unrolled."""
    if layers.bidirectional or layers.batch_first or layers.proj_size or not layers.bias:
        raise ValueError(f"an exported LSTM must have frames first, biases, and one direction, got {layers}")
    for layer in range(layers.num_layers):
        to_input, to_hidden, bias, more_bias = (
            getattr(layers, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        gates = F.linear(x, to_input, bias + more_bias)

        def step(
            state: tuple[Tensor, Tensor], gate: Tensor, to_hidden: Tensor = to_hidden
        ) -> tuple[tuple[Tensor, Tensor], Tensor]:
            hidden, cell = state
            enter, forget, new, leave = (gate + hidden @ to_hidden.T).chunk(4, -1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            return (hidden, cell), hidden.clone()

        zeros = x.new_zeros(x.shape[1], layers.hidden_size)
        _, x = _higher_order_ops.scan(step, (zeros, zeros.clone()), gates)
    return x
