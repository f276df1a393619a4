"""Part of a source, by index."""

from __future__ import annotations

from collections.abc import Sequence

from .source import Item, Source


class Subset(Source):
    """The items of `source` at `indices`, in that order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices
        self.name = source.name

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Item:
        return self.source[self.indices[self._check(i)]]
