"""Metrics of codes: usage and perplexity of the codebooks over a whole set, and idempotence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenloom.codecs.types import Codes

Occurrences = list[tuple[list[int], list[int]]]
"""For each quantizer the entries that occur in an item, and how often."""


@dataclass
class CodebookUse:
    """Use of one codebook by a set of items."""

    size: int
    """Number of entries."""
    used: int
    """Number of entries that occur."""
    usage: float | None
    """used / size; None without tokens."""
    perplexity: float | None
    """exp of the entropy of the counts, in [1, size]; None without tokens."""
    tokens: int


class CodeCounts:
    """Counts of every entry of every codebook over a set of items, one int64 tensor (entries,) per quantizer."""

    def __init__(self, codebook_sizes: tuple[int, ...]) -> None:
        self.counts = [torch.zeros(size, dtype=torch.int64) for size in codebook_sizes]

    def update(self, codes: Codes) -> None:
        """Count the codes of a batch."""
        for row in range(len(codes)):
            self.add(occurrences(codes, row))

    def add(self, counts: Occurrences) -> None:
        """Add the counts of one item."""
        for total, (entries, times) in zip(self.counts, counts, strict=False):  # codes may have fewer quantizers
            total[torch.tensor(entries, dtype=torch.int64)] += torch.tensor(times, dtype=torch.int64)

    def summary(self) -> list[CodebookUse]:
        """Return the use of each quantizer's codebook."""
        return [_use(count) for count in self.counts]


def _use(count: Tensor) -> CodebookUse:
    tokens, used = int(count.sum()), int((count > 0).sum())
    p = count[count > 0].double() / max(tokens, 1)
    if not tokens:
        return CodebookUse(len(count), used, None, None, 0)
    return CodebookUse(len(count), used, used / len(count), float((-(p * p.log()).sum()).exp()), tokens)


def sequences(codes: Codes, row: int) -> list[Tensor]:
    """Return the codes of one item, int64 (tokens,) per quantizer, without padding and unused quantizers."""
    flat = codes.indices[row].flatten(1)
    if codes.lengths is not None:
        flat = flat[:, : int(codes.lengths[row])]
    return [q[q >= 0] for q in flat]


def occurrences(codes: Codes, row: int) -> Occurrences:
    """Return the counts of one item: for each quantizer the entries that occur, and how often."""
    found = (torch.unique(used.cpu(), return_counts=True) for used in sequences(codes, row))
    return [(entries.tolist(), times.tolist()) for entries, times in found]


def same_share(first: Codes, second: Codes) -> float:
    """Return the share of equal tokens in two encodings of one item, relative to the longer one."""
    equal = total = 0
    for a, b in zip(sequences(first, 0), sequences(second, 0), strict=True):
        n = min(len(a), len(b))
        equal += int((a[:n] == b[:n]).sum())
        total += max(len(a), len(b))
    return equal / total if total else 1.0
