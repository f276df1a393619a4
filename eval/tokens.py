"""Figures about the codes themselves: usage, perplexity, idempotence."""

from __future__ import annotations

from tokenloom.codecs.base import Codes
from tokenloom.codecs.usage import CodeCounts, sequences

__all__ = ["CodeCounts", "same_share", "sequences"]


def same_share(first: Codes, second: Codes) -> float:
    """Share of tokens of one item that are equal; where lengths differ, of the longer one."""
    equal = total = 0
    for a, b in zip(sequences(first, 0), sequences(second, 0), strict=True):
        n = min(len(a), len(b))
        equal += int((a[:n] == b[:n]).sum())
        total += max(len(a), len(b))
    return equal / total if total else 1.0
