"""The learned audio codec: SEANet and a residual vector quantizer."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..codec import LatentCodec
from ..quantizers import Quantizer, ResidualVQ
from ..registry import register
from ..types import CodeSpec, Modality
from . import seanet


class WaveAutoencoder(LatentCodec):
    """An audio codec: causal SEANet encoder, any quantizer, causal SEANet decoder.

    sample_rate  Hz; channels  1 or 2
    ratios       strides of the stages, the decoder's first; their product is the stride in samples
    filters      channels of the finest stage, doubled at every stride
    residual     residual units a stage; lstm  layers at the bottleneck (0: none, a finite window)
    """

    def __init__(
        self, quantizer: Quantizer, *, sample_rate: int = 24000, channels: int = 1, ratios: list[int] = (8, 5, 4, 2),
        filters: int = 32, residual: int = 1, lstm: int = 0,
    ) -> None:  # fmt: skip
        seanet.check(
            self.name, ratios, channels=channels, sample_rate=sample_rate, filters=filters, residual=residual, lstm=lstm
        )
        ratios = list(ratios)
        spec = CodeSpec(
            Modality.AUDIO, quantizer.sizes, (math.prod(ratios),), channels, sample_rate, total=True,
            ordered=quantizer.ordered, causal=True,
        )  # fmt: skip
        super().__init__(spec, quantizer)
        self.encoder = seanet.encoder(channels, filters, ratios, quantizer.dim, residual=residual, lstm=lstm)
        self.decoder = seanet.decoder(channels, filters, ratios, quantizer.dim, residual=residual, lstm=lstm)
        seanet.initialise(self.encoder)
        seanet.initialise(self.decoder)
        nn.init.normal_(self.decoder[-1].conv.weight, std=1e-3)  # begin at silence, not at full scale

    def analyze(self, x: Tensor) -> Tensor:
        """(batch, channels, samples) in [-1, 1] → (batch, dim, frames); zeros complete the last frame."""
        return self.encoder(F.pad(x, (0, -x.shape[-1] % self.spec.stride[0])))

    def synthesize(self, latents: Tensor) -> Tensor:
        """Quantised latents → (batch, channels, frames · stride), neither cropped nor clamped."""
        return self.decoder(latents)


@register("audio/rvq")
class AudioRVQ(WaveAutoencoder):
    """Causal SEANet with residual vector quantization and quantizer dropout (SoundStream, EnCodec).

    codebook_size  entries of each quantizer; dim  channels of a codeword
    decay, dead_below, update  how the codebooks learn, see `ResidualVQ`
    network        see `WaveAutoencoder`
    Setting: the number of quantizers used.
    """

    def __init__(
        self, codebook_size: int = 1024, dim: int = 128, quantizers: int = 8, *, decay: float = 0.99,
        dead_below: float = 0.1, update: str = "ema", **network: Any,
    ) -> None:  # fmt: skip
        learning = {"decay": decay, "dead_below": dead_below, "update": update}
        super().__init__(ResidualVQ(codebook_size, dim, quantizers, **learning), **network)
