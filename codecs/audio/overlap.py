"""Overlap-add of audio that is decoded in chunks."""

from __future__ import annotations

import torch
from torch import Tensor


def overlap_add(chunks: list[Tensor], hop: int) -> Tensor:
    """Average chunks (batch, channels, samples) that start `hop` samples apart.

    The weights are a triangle with its peak in the middle of a full chunk, as in EnCodec at 48 kHz (arXiv 2210.13438).
    """
    longest = chunks[0].shape[-1]
    weight = 0.5 - (torch.linspace(0, 1, longest + 2, device=chunks[0].device)[1:-1] - 0.5).abs()
    out = chunks[0].new_zeros(*chunks[0].shape[:-1], hop * (len(chunks) - 1) + longest)
    total = torch.zeros_like(out[0, 0])
    for i, chunk in enumerate(chunks):
        part = slice(i * hop, i * hop + chunk.shape[-1])
        out[..., part] += weight[: chunk.shape[-1]] * chunk
        total[part] += weight[: chunk.shape[-1]]
    end = max(i * hop + chunk.shape[-1] for i, chunk in enumerate(chunks))
    return out[..., :end] / total[:end]
