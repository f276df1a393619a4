"""What codes cost. The only place where a logarithm of a codebook size is taken.

Four figures, never mixed up, all in bits per item (float64, shape (batch,)):
nominal  positions × Σ log2(codebook size) + 32 bits per number of side information, and the whole
         bytes that say how many tokens an item has where that is a choice;
         for codecs whose tokens are a file's bytes exactly 8 × the file's bytes
entropy  cross-entropy of the codes under counts of the training split: order 0, per quantizer
coded    8 × the bytes that `compress` wrote, container included
modelled nats under a transformer that learned from other items' codes, as bits, + 32 per number of side information
`bits_per_pixel` and `kbps` turn them into rates of the unpadded signal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .types import CodecInterface, Codes, CodeSpec, Modality

SIDE_BITS = 32


def positions(spec: CodeSpec, codes: Codes) -> Tensor:
    """(batch,) int64: positions of each item's own grid, padding of a batch left out."""
    if codes.lengths is not None:
        return codes.lengths
    if not spec.stride:
        return torch.full((len(codes),), codes.indices.shape[2])
    return torch.tensor([math.prod(spec.grid(tuple(size))) for size in codes.sizes.tolist()], device=codes.sizes.device)


def tokens(spec: CodeSpec, codes: Codes) -> Tensor:
    """(batch,) int64: tokens of each item, all quantizers counted."""
    return positions(spec, codes) * codes.quantizers()


def bits_per_token(spec: CodeSpec) -> tuple[float, ...]:
    """Nominal bits of one token of each quantizer."""
    return tuple(math.log2(n) for n in spec.codebook_sizes)


def bits_per_position(codebook_sizes: tuple[int, ...]) -> float:
    """Nominal bits of one position of these quantizers."""
    return sum(math.log2(n) for n in codebook_sizes)


def nominal(spec: CodeSpec, codes: Codes) -> Tensor:
    """(batch,) float64 bits: what the codes cost if every entry were equally likely."""
    cumulative = torch.tensor([0.0, *bits_per_token(spec)], dtype=torch.float64).cumsum(0)
    bits = positions(spec, codes).cpu() * cumulative[codes.quantizers().cpu()]
    return bits + _besides(spec, codes)


def _besides(spec: CodeSpec, codes: Codes) -> Tensor:
    """(batch,) float64 bits that are no tokens: side information, and a length that the encoder chose.

    A length takes a byte per seven bits, as in the container.
    """
    side = _side(codes)
    if not spec.ordered or codes.lengths is None:
        return side
    return side + torch.tensor([8.0 * -(-n.bit_length() // 7) for n in codes.lengths.tolist()], dtype=torch.float64)


def _side(codes: Codes) -> Tensor:
    """(batch,) float64 bits of side information; NaN stands where an item has less of it than its batch."""
    numbers = [(~value.isnan()).reshape(len(codes), -1).sum(1).cpu() for value in codes.side.values()]
    return SIDE_BITS * sum(numbers, torch.zeros(len(codes), dtype=torch.float64))


def modelled(nats: Tensor, codes: Codes) -> Tensor:
    """(batch,) float64 bits, from the nats of each item's codes under a model that knows of no side information."""
    return nats.double().cpu() / math.log(2) + _side(codes)


def coded(data: list[bytes]) -> Tensor:
    """(batch,) float64 bits of finished containers."""
    return torch.tensor([8 * len(d) for d in data], dtype=torch.float64)


def smoothed(counts: Tensor) -> Tensor:
    """Counts → probabilities with half an occurrence added to each (Krichevsky–Trofimov), float64."""
    counts = counts.double() + 0.5
    return counts / counts.sum(-1, keepdim=True)


def entropy(codec: CodecInterface, codes: Codes) -> Tensor | None:
    """(batch,) float64 bits under the codec's training counts; None where it has none."""
    counts = codec.counts
    if counts is None or int(counts.sum()) == 0:
        return None
    bits = _besides(codec.spec, codes)
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
    """(batch,) int64: pixels of each image, or samples per channel of each waveform."""
    return codes.sizes.prod(1).cpu()


def bits_per_pixel(bits: Tensor, codes: Codes) -> Tensor:
    """Bits per item → bits per pixel of the unpadded image."""
    return bits.cpu() / samples(codes)


def kbps(bits: Tensor, codes: Codes, spec: CodeSpec) -> Tensor:
    """Bits per item → kbit/s of the unpadded waveform."""
    if spec.modality is not Modality.AUDIO or not spec.sample_rate:
        raise ValueError(f"kbit/s is a rate of audio, not of {spec.modality}")
    return bits.cpu() * spec.sample_rate / samples(codes) / 1000
