"""Cost of codes in bits. No other module takes a logarithm of a codebook size.

There are four costs per item, all float64 (batch,), on the CPU:

* nominal: positions × Σ log2(codebook size), plus 32 bits per number of side information. If the encoder chooses the
  number of tokens, whole bytes for that number are added. If the tokens are the bytes of a file: 8 × its bytes.
* entropy: cross-entropy of the codes under counts of the training split, order 0, per quantizer.
* coded: 8 × the bytes that `compress` wrote, container included.
* modelled: bits under a transformer trained on other items, plus 32 per number of side information.

`bits_per_pixel` and `kbps` convert them to rates of the unpadded signal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .types import CodecInterface, Codes, CodeSpec, Modality

SIDE_BITS = 32
"""Bits of one number of side information."""


def positions(spec: CodeSpec, codes: Codes) -> Tensor:
    """Return the number of positions of each item, padding excluded, int64 (batch,) on the CPU."""
    if codes.lengths is not None:
        return codes.lengths.cpu()
    if not spec.stride:
        return torch.full((len(codes),), codes.indices.shape[2])
    return torch.tensor([math.prod(spec.grid(tuple(size))) for size in codes.sizes.tolist()])


def tokens(spec: CodeSpec, codes: Codes) -> Tensor:
    """Return the number of tokens of each item, positions × quantizers, int64 (batch,) on the CPU."""
    return positions(spec, codes) * codes.quantizers().cpu()


def bits_per_token(spec: CodeSpec) -> tuple[float, ...]:
    """Return the nominal bits of one token of each quantizer."""
    return tuple(math.log2(n) for n in spec.codebook_sizes)


def bits_per_position(codebook_sizes: tuple[int, ...]) -> float:
    """Return the nominal bits of one position, over all quantizers."""
    return sum(math.log2(n) for n in codebook_sizes)


def nominal(spec: CodeSpec, codes: Codes) -> Tensor:
    """Return the nominal bits of each item, float64 (batch,). All entries count as equally likely."""
    cumulative = torch.tensor([0.0, *bits_per_token(spec)], dtype=torch.float64).cumsum(0)
    bits = positions(spec, codes) * cumulative[codes.quantizers().cpu()]
    return bits + _overhead(spec, codes)


def _overhead(spec: CodeSpec, codes: Codes) -> Tensor:
    """Return the bits of side information, plus those of a length that the encoder chose (a byte per 7 bits)."""
    side = _side(codes)
    if not spec.ordered or codes.lengths is None:
        return side
    return side + torch.tensor([8.0 * -(-n.bit_length() // 7) for n in codes.lengths.tolist()], dtype=torch.float64)


def _side(codes: Codes) -> Tensor:
    """Return the bits of side information, float64 (batch,). NaN is padding."""
    numbers = [(~value.isnan()).reshape(len(codes), -1).sum(1).cpu() for value in codes.side.values()]
    return SIDE_BITS * sum(numbers, torch.zeros(len(codes), dtype=torch.float64))


def modelled(nats: Tensor, codes: Codes) -> Tensor:
    """Return the bits of each item, float64 (batch,), from the nats of its codes under a model."""
    return nats.cpu().double() / math.log(2) + _side(codes)


def coded(data: list[bytes]) -> Tensor:
    """Return the bits of containers, float64 (batch,)."""
    return torch.tensor([8 * len(d) for d in data], dtype=torch.float64)


def smoothed(counts: Tensor) -> Tensor:
    """Convert counts to probabilities, float64, adding 0.5 to each count (Krichevsky and Trofimov, 1981)."""
    counts = counts.cpu().double() + 0.5  # not every device has float64
    return counts / counts.sum(-1, keepdim=True)


def entropy(codec: CodecInterface, codes: Codes) -> Tensor | None:
    """Return the bits of each item under the training counts, float64 (batch,); None without counts."""
    counts = codec.counts
    if counts is None or int(counts.sum()) == 0:
        return None
    bits = _overhead(codec.spec, codes)
    used = codes.quantizers().tolist()
    for i in range(len(codes)):
        one = codes[i]
        grid = codec.spec.grid(tuple(one.sizes[0].tolist())) if one.lengths is None else one.lengths.tolist()
        for q in range(used[i]):
            cost = -smoothed(counts[q, : codec.spec.codebook_sizes[q]]).log2()
            index = codes.indices[(i, q, *(slice(n) for n in grid))]
            bits[i] += cost[index.cpu()].sum()
    return bits


def samples(codes: Codes) -> Tensor:
    """Return the pixels of each image or the samples per channel of each waveform, int64 (batch,)."""
    return codes.sizes.prod(1).cpu()


def bits_per_pixel(bits: Tensor, codes: Codes) -> Tensor:
    """Convert bits per item to bits per pixel of the unpadded image."""
    return bits.cpu() / samples(codes)


def kbps(bits: Tensor, codes: Codes, spec: CodeSpec) -> Tensor:
    """Convert bits per item to kbit/s of the unpadded waveform."""
    if spec.modality is not Modality.AUDIO or not spec.sample_rate:
        raise ValueError(f"kbit/s is a rate of audio, got {spec.modality}")
    return bits.cpu() * spec.sample_rate / samples(codes) / 1000
