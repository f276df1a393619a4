"""Metrics of the codes themselves: codebook usage and perplexity over a whole set, and idempotence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs.types import Codes


def sequences(codes: Codes, row: int) -> list[Tensor]:
    """The codes of one item, one 1-D int64 tensor per quantizer; padding and unused quantizers left out."""
    flat = codes.indices[row].flatten(1)
    if codes.lengths is not None:
        flat = flat[:, : int(codes.lengths[row])]
    return [q[q >= 0] for q in flat]


class CodeCounts:
    """How often every entry of every codebook was used, over as many items as it is shown."""

    def __init__(self, codebook_sizes: tuple[int, ...]) -> None:
        self.counts = [torch.zeros(size, dtype=torch.int64) for size in codebook_sizes]

    def update(self, codes: Codes) -> None:
        for row in range(len(codes)):
            for count, used in zip(self.counts, sequences(codes, row), strict=False):  # a prefix of the quantizers
                count += torch.bincount(used.cpu(), minlength=len(count))

    def summary(self) -> list[dict[str, Any]]:
        """Per quantizer: size, used, usage in [0, 1], perplexity in [1, size], tokens. None where nothing was coded.

        Perplexity is exp of the entropy of the counts: as many equally likely entries would be as hard to guess.
        """
        rows = []
        for count in self.counts:
            tokens, used = int(count.sum()), int((count > 0).sum())
            p = count[count > 0].double() / max(tokens, 1)
            rows.append(
                {
                    "size": len(count),
                    "used": used,
                    "usage": used / len(count) if tokens else None,
                    "perplexity": float((-(p * p.log()).sum()).exp()) if tokens else None,
                    "tokens": tokens,
                }
            )
        return rows


def same_share(first: Codes, second: Codes) -> float:
    """Share of tokens of one item that are equal; where lengths differ, of the longer one."""
    equal = total = 0
    for a, b in zip(sequences(first, 0), sequences(second, 0), strict=True):
        n = min(len(a), len(b))
        equal += int((a[:n] == b[:n]).sum())
        total += max(len(a), len(b))
    return equal / total if total else 1.0
