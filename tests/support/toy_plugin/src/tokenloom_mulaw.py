"""A codec in a package of its own: the companding of G.711, with one token of 8 bits per sample."""

import math

import torch

from tokenloom.codecs import Codec, Codes, CodeSpec, Modality

MU = 255.0


class MuLaw(Codec):
    """Mono audio, companded to 8 bits per sample (G.711).

    Args:
        sample_rate: In Hz.
    """

    def __init__(self, sample_rate: int = 8000) -> None:
        super().__init__()
        self.spec = CodeSpec(Modality.AUDIO, (256,), (1,), 1, sample_rate, total=True, ordered=False, causal=True)

    def _encode(self, x, setting):
        companded = torch.log1p(MU * x.abs()) / math.log1p(MU) * x.sign()
        indices = ((companded + 1) / 2 * 255).round().long()
        return Codes(indices, torch.tensor([[x.shape[2]]] * len(x)))

    def _decode(self, codes):
        companded = codes.indices.float() / 255 * 2 - 1
        samples = companded.sign() * torch.expm1(companded.abs() * math.log1p(MU)) / MU
        inside = torch.arange(samples.shape[2]) < codes.sizes[:, None]
        return samples.clamp(-1, 1) * inside
