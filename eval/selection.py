"""Selection of the items to evaluate."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch

from tokenloom.codecs.media import images, notices
from tokenloom.codecs.media.notices import Notice
from tokenloom.codecs.types import Modality
from tokenloom.data import BrokenItem, Item, Source

DEEP = Notice("16-bit color or transparency has values between the 256 levels; figures are of values rounded to 8 bits")


class Selection:
    """Items of some modalities: all of a source in order, or `count` of each modality drawn with a seed.

    If `strict`, a broken item is an error; else broken items are counted in `skipped` and reported in one warning.
    """

    def __init__(self, source: Source, modalities: set[Modality], count: int | None, seed: int, strict: bool) -> None:
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"items must be an integer of at least 1, got {count!r}")
        self.source, self.count, self.strict, self.skipped = source, count, strict, 0
        self.left = {modality: len(source) if count is None else count for modality in modalities}
        self.order = range(len(source))
        if count is not None and count < len(source):
            self.order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()

    def __len__(self) -> int:
        """Largest possible number of items."""
        return min(len(self.source), sum(self.left.values()))

    def __iter__(self) -> Iterator[Item]:
        problems, tally, count = [], notices.Tally(), 0
        for i in self.order:
            if not any(self.left.values()):
                break
            try:
                item = self.source[i]
            except BrokenItem as problem:
                if self.strict:
                    raise
                problems.append(str(problem))
                self.skipped += 1
                continue
            if self.left.get(item.modality, 0):
                self.left[item.modality] -= 1
                count += 1
                deep = item.modality is Modality.IMAGE and images.between_levels(item.signal)
                tally.add(item.key, (*item.notices, *[DEEP] * deep))
                yield item
        if problems:
            warnings.warn(f"left out {len(problems)} broken items, first: {problems[0]}", stacklevel=2)
        tally.warn(self.source.name, count)
