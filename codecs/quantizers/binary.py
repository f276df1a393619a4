"""Binary quantization: one bit per channel."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from ..validate import is_integer, require_integer
from .base import MAX_CODEBOOK, Quantized, Quantizer

MAX_BITS = 1024
"""Most bits per position; the papers use 9 to 36."""
INVERSE_TEMPERATURE = 100.0
"""Inverse temperature of soft assignments, that of MAGVIT-v2's authors in vector-quantize-pytorch."""
LEAST = 1e-5
"""Least probability in a logarithm, which bounds its gradient. Also theirs."""


class BSQ(Quantizer):
    """Binary spherical quantization: latents on the unit sphere, one bit per channel.

    The entropy term (eq. 8) is computed per codebook. Its soft assignments are products over bits, and the entropy of a
    product is the sum of the bits' entropies.

    Args:
        bits: Bits per position, which is the number of latent channels.
        codebooks: Number of codebooks that share the bits; None for the fewest of at most 9 bits each.
        entropy_weight: Weight of the entropy term.

    Source: Zhao et al., arXiv 2406.07548.
    """

    spherical: ClassVar[bool] = True
    commitment: ClassVar[float] = 1.0
    """Weight of the commitment loss."""
    default_bits: ClassVar[int] = 9
    """Most bits of one codebook if the number of codebooks is not given."""

    basis: Tensor

    def __init__(self, bits: int, codebooks: int | None = None, entropy_weight: float = 0.1) -> None:
        super().__init__()
        require_integer("bits", bits, 1, MAX_BITS)
        if codebooks is None:
            codebooks = next(n for n in range(1, bits + 1) if bits % n == 0 and bits // n <= self.default_bits)
        if not is_integer(codebooks, 1, bits) or bits % codebooks or 2 ** (bits // codebooks) > MAX_CODEBOOK:
            raise ValueError(f"codebooks must split {bits} bits evenly into at most 14 each, got {codebooks!r:.80}")
        self.dim = bits
        self.bits = bits // codebooks
        self.sizes = (2**self.bits,) * codebooks
        self.entropy_weight = entropy_weight
        self.register_buffer("basis", torch.tensor([2**bit for bit in reversed(range(self.bits))]), persistent=False)

    def quantize(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            x = self.bounded(latents.float())
            size = self.bits**-0.5 if self.spherical else 1.0
            quantized = torch.where(x > 0, size, -size)
            if not self.training:
                return Quantized(quantized, x.new_zeros(()))
            groups = x.unflatten(1, (len(self.sizes), self.bits)).movedim((1, 2), (0, -1)).flatten(1, -2)
            entropy = _entropy_term(4 * INVERSE_TEMPERATURE * size * groups)
            loss = self.commitment * F.mse_loss(x, quantized) + self.entropy_weight * entropy
        return Quantized(x + (quantized - x).detach(), loss)

    def bounded(self, latents: Tensor) -> Tensor:
        if not self.spherical:
            return latents
        return F.normalize(latents.float().unflatten(1, (len(self.sizes), self.bits)), dim=2).flatten(1, 2)

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        bits = (latents > 0).unflatten(1, (len(self.sizes), self.bits))
        return (bits * self.basis.reshape((-1,) + (1,) * (latents.ndim - 2))).sum(2)

    def decide(self, latents: Tensor, count: int | None, error: float) -> tuple[Tensor, Tensor]:
        return self.search(latents, count), (latents.abs() < error).any(1)

    def lookup(self, indices: Tensor) -> Tensor:
        basis = self.basis.reshape((-1,) + (1,) * (indices.ndim - 2))
        signs = (((indices.unsqueeze(2) & basis) > 0).float() * 2 - 1).flatten(1, 2)
        return signs * self.bits**-0.5 if self.spherical else signs


class LFQ(BSQ):
    """Lookup-free quantization: an index holds the signs of the latents, and the codeword is ±1.

    Bit c of an index is 1 if channel c of its codebook is above 0. The entropy term (eq. 5 and 6) is computed per
    codebook.
    Source: Yu et al., MAGVIT-v2 (arXiv 2310.05737), §3.1.
    """

    spherical, commitment, default_bits = False, 0.25, 14

    def __init__(self, bits: int, codebooks: int | None = None, entropy_weight: float = 0.1) -> None:
        super().__init__(bits, codebooks, entropy_weight)
        self.basis = torch.tensor([2**bit for bit in range(self.bits)])


def _entropy_term(logits: Tensor) -> Tensor:
    """Return the mean entropy of a latent's soft assignment minus the entropy of the mean assignment, in nats.

    Args:
        logits: (codebooks, latents, bits). Log odds of each bit. A softmax over the entries, of minus the squared
            distances over a temperature, is the product of such bits.
    """
    chances = logits.sigmoid()
    own = (F.softplus(logits) - logits * chances).sum(-1).mean()
    low, high = (_products(part) for part in chances.tensor_split(2, -1))
    mean = _mean_over_processes(low.mT @ high / logits.shape[1])
    return own + (mean * mean.clamp_min(LEAST).log()).sum((1, 2)).mean()


def _products(chances: Tensor) -> Tensor:
    """Return the probability of each combination of bits, (…, 2^bits), from the probability of each bit (…, bits)."""
    products = torch.ones_like(chances[..., :1])
    for one in chances.split(1, -1):
        products = torch.cat([products * (1 - one), products * one], -1)
    return products


def _mean_over_processes(values: Tensor) -> Tensor:
    """Average over the training processes, with gradients."""
    if not distributed.is_available() or not distributed.is_initialized():
        return values
    return distributed.nn.all_reduce(values) / distributed.get_world_size()
