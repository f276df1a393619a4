"""Several sources, one after the other."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain

from tokenloom.codecs.types import Modality

from .source import Item, Source


class Mix(Source):
    """The items of several sources in order. Modalities may differ. A key is prefixed with the number of its source."""

    name = "mix"

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = list(parts)
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def candidates(self, modality: Modality) -> Sequence[int]:
        starts = [0, *self.ends]
        return [starts[k] + i for k, part in enumerate(self.parts) for i in part.candidates(modality)]

    def contents(self) -> Iterator[tuple[str, int]]:
        return chain.from_iterable(part.contents() for part in self.parts)

    def __getitem__(self, i: int) -> Item:
        k = bisect_right(self.ends, self._check(i))
        item = self.parts[k][i - (self.ends[k - 1] if k else 0)]
        return dataclasses.replace(item, key=f"{k}/{item.key}")
