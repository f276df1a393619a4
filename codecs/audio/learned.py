"""Learned audio codec: SEANet with a residual vector quantizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..codec import LatentCodec
from ..quantizers import Quantizer, ResidualVQ
from ..registry import register
from ..streams.stages import Stage
from ..types import CodeSpec, Modality
from . import seanet, stages


class WaveAutoencoder(LatentCodec):
    """Audio codec with a causal SEANet encoder, any quantizer, and a causal SEANet decoder.

    Args:
        quantizer: Any quantizer. Its `dim` is the number of latent channels.
        sample_rate: In Hz.
        channels: 1 or 2.
        ratios: Strides of the stages in the decoder's order. Their product is the stride in samples.
        filters: Channels of the finest stage. Each stage doubles them.
        residual: Residual units per stage.
        lstm: LSTM layers at the bottleneck; 0 for a finite receptive field.
    """

    exact = True

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

    @property
    def stream_obstacle(self) -> str | None:
        return None

    def analysis_stage(self) -> Stage:
        return stages.Completed(stages.stage(self.encoder), self.spec.stride[0])

    def synthesis_stage(self) -> Stage:
        return stages.stage(self.decoder)


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
