"""Metrics of text."""

from __future__ import annotations


def exact(reference: str, output: str) -> float:
    """Return 1 if the two texts are equal, else 0."""
    return float(reference == output)
