"""Learned audio codec: SEANet with a residual vector quantizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import batches
from ..codec import LatentCodec
from ..layers import spans
from ..quantizers import Quantizer, ResidualVQ
from ..registry import register
from ..types import Codes, CodeSpec, Modality
from . import seanet

BLOCK = 2**18
"""Samples that are encoded or decoded at once: 33 seconds at 8 kHz."""


class WaveAutoencoder(LatentCodec):
    """Audio codec with a causal SEANet encoder, any quantizer, and a causal SEANet decoder.

    Without an LSTM, long signals are computed in blocks, so that their length does not matter for the memory.

    Args:
        quantizer: Any quantizer. Its `dim` is the number of latent channels.
        sample_rate: In Hz.
        channels: 1 or 2.
        ratios: Strides of the stages in the decoder's order. Their product is the stride in samples.
        filters: Channels of the finest stage. Each stage doubles them.
        residual: Residual units per stage.
        lstm: LSTM layers at the bottleneck; 0 for a finite receptive field.
    """

    def __init__(
        self, quantizer: Quantizer, *, sample_rate: int = 24000, channels: int = 1,
        ratios: Sequence[int] = (8, 5, 4, 2), filters: int = 32, residual: int = 1, lstm: int = 0,
    ) -> None:  # fmt: skip
        seanet.check(
            self.name, ratios, channels=channels, sample_rate=sample_rate, filters=filters, residual=residual, lstm=lstm
        )
        ratios = list(ratios)
        spec = CodeSpec(
            Modality.AUDIO, quantizer.sizes, (math.prod(ratios),), channels, sample_rate, ordered=quantizer.ordered,
            causal=True,
        )  # fmt: skip
        super().__init__(spec, quantizer)
        self.encoder, self.decoder = seanet.autoencoder(
            channels, filters, ratios, quantizer.dim, residual=residual, lstm=lstm
        )

    def analyze(self, x: Tensor) -> Tensor:
        """Map (batch, channels, samples) in [-1, 1] to (batch, dim, frames). Zeros complete the last frame."""
        return self.encoder(F.pad(x, (0, -x.shape[-1] % self.spec.stride[0])))

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map quantized latents to (batch, channels, frames · stride), not cropped or clamped."""
        return self.decoder(latents)

    @functools.cached_property
    def _reach(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Frames before and after a frame on which the encoder and the decoder depend; None if there is no bound."""
        stride, anchor = self.spec.stride[0], self._anchor
        encoder = spans.reach(self.analyze, anchor.new_zeros(1, self.spec.channels, stride), stride, 1)
        decoder = spans.reach(self.synthesize, anchor.new_zeros(1, self.quantizer.dim, 1), 1, stride)
        return None if encoder is None or decoder is None else (encoder, decoder)

    def _encode(self, x: Tensor, setting: int | None) -> Codes:
        if x.shape[-1] <= BLOCK or self._reach is None:
            return super()._encode(x, setting)

        def encode(part: Tensor) -> Tensor:
            return super(WaveAutoencoder, self)._encode(part, setting).indices

        stride = self.spec.stride[0]
        indices = spans.in_blocks(encode, x, self._reach[0], max(1, BLOCK // stride), stride, 1)
        return Codes(indices, torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1))

    def _decode(self, codes: Codes) -> Tensor:
        if int(codes.sizes[0]) <= BLOCK or self._reach is None:
            return super()._decode(codes)
        stride = self.spec.stride[0]

        def decode(part: Tensor) -> Tensor:
            sizes = torch.full((len(part), 1), stride * part.shape[-1])
            return super(WaveAutoencoder, self)._decode(Codes(part, sizes))

        signals = spans.in_blocks(decode, codes.indices, self._reach[1], max(1, BLOCK // stride), 1, stride)
        return batches.crop(signals, codes.sizes)

    def working_memory(self, size: tuple[int, ...]) -> int:
        if size[0] <= BLOCK or self._reach is None:
            return super().working_memory(size)
        return (
            super().working_memory((max(BLOCK, self.spec.stride[0]) + sum(self._reach[1]) * self.spec.stride[0],))
            + 4 * size[0]
        )


@register("audio/rvq")
class AudioRVQ(WaveAutoencoder):
    """Causal SEANet with residual vector quantization and quantizer dropout (SoundStream, EnCodec).

    Setting: number of quantizers.

    Args:
        codebook_size: Entries of each quantizer.
        dim: Channels of a codeword.
        quantizers: Number of quantizers.
        decay: See `ResidualVQ`, also for dead_below and update.
        **network: See `WaveAutoencoder`.
    """

    def __init__(
        self, codebook_size: int = 1024, dim: int = 128, quantizers: int = 8, *, decay: float = 0.99,
        dead_below: float = 0.1, update: str = "ema", **network: Any,
    ) -> None:  # fmt: skip
        learning = {"decay": decay, "dead_below": dead_below, "update": update}
        super().__init__(ResidualVQ(codebook_size, dim, quantizers, **learning), **network)
