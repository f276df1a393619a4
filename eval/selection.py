"""Selection of the items to evaluate."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch

from tokenloom.codecs.media import images, notices
from tokenloom.codecs.media.notices import Notice
from tokenloom.codecs.types import Modality
from tokenloom.data import BrokenItem, Item, Source

DEEP = Notice("16-bit color or transparency has values between the 256 levels; figures are of values rounded to 8 bits")


class Selection:
    """Items of one modality: all of a source in order, or `count` drawn with a seed.

    The first pass chooses the items, and later passes read the same ones. If `strict`, a broken item is an error; else
    broken items are left out, and the first pass ends with a warning.

    Attributes:
        chosen: Indices of the items in the source; None before the end of the first pass.
        broken: Index → reason.
    """

    def __init__(self, source: Source, modality: Modality, count: int | None, seed: int, strict: bool) -> None:
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"items must be an integer of at least 1, got {count!r}")
        self.source, self.modality, self.count, self.strict = source, modality, count, strict
        self.chosen: list[int] | None = None
        self.broken: dict[int, str] = {}
        self.candidates = set(source.candidates(modality))
        self.order: Sequence[int] = range(len(source))
        if count is not None and count < len(source):
            self.order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()

    def __len__(self) -> int:
        """Number of items, or the largest possible one before the end of the first pass."""
        if self.chosen is not None:
            return len(self.chosen)
        return len(self.candidates) if self.count is None else min(self.count, len(self.candidates))

    def __iter__(self) -> Iterator[Item]:
        return (item for _, item in self.numbered() if item is not None)

    def numbered(self, skip: Callable[[int], bool] = lambda i: False) -> Iterator[tuple[int, Item | None]]:
        """Iterate over the indices and items. In later passes, the items to skip are None and are not read."""
        if self.chosen is not None:
            for i in self.chosen:
                yield i, None if skip(i) else self.source[i]
            return
        chosen, tally = [], notices.Tally()
        for i in self.order:
            if len(chosen) == self.count:
                break
            if i not in self.candidates:
                continue
            try:
                item = self.source[i]
            except BrokenItem as problem:
                if self.strict:
                    raise
                self.broken[i] = str(problem)
                continue
            if item.modality is self.modality:
                deep = self.modality is Modality.IMAGE and images.between_levels(item.signal)
                tally.add(item.key, (*item.notices, *[DEEP] * deep))
                chosen.append(i)
                yield i, item
        self.chosen = chosen
        if self.broken:
            first = next(iter(self.broken.values()))
            warnings.warn(f"left out {len(self.broken)} broken items, first: {first}", stacklevel=2)
        tally.warn(self.source.name, len(chosen))


def digest(item: Item) -> str:
    """Return a hash of an item's signal."""
    if isinstance(item.signal, str):
        return hashlib.sha256(item.signal.encode()).hexdigest()
    shape = repr(tuple(item.signal.shape)).encode()
    return hashlib.sha256(shape + item.signal.contiguous().numpy().tobytes()).hexdigest()


def contents(source: Source) -> dict[str, str]:
    """Return the name of a source, and a hash of the names and sizes of its files and of the number of items."""
    listed = hashlib.sha256(repr([len(source), *source.contents()]).encode("utf-8", "backslashreplace"))
    return {"data": source.name, "data (names, sizes or number of items)": listed.hexdigest()[:16]}
