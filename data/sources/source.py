"""The base class of all sources: a sequence of items that are read on access."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from tokenloom.codecs import media
from tokenloom.codecs.media import notices
from tokenloom.codecs.media.audio import read_audio
from tokenloom.codecs.media.notices import Notice
from tokenloom.codecs.types import Modality


class BrokenItem(ValueError):
    """An item cannot be read. The message is one line with the file and the reason."""


class Decoded(NamedTuple):
    """A signal, its sample rate in Hz (None unless it is audio), and the notices of its reading."""

    signal: Tensor | str
    sample_rate: int | None
    notices: tuple[Notice, ...]


def decode(data: bytes, modality: Modality, where: object) -> Decoded:
    """Decode the bytes of a file. Raises BrokenItem naming `where`."""
    try:
        with notices.collect() as found:
            signal, rate = read_audio(data) if modality is Modality.AUDIO else (media.read(data, modality), None)
        return Decoded(signal, rate, tuple(found))
    except ValueError as error:
        raise BrokenItem(f"{where}: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Item:
    """One signal at its native size and rate.

    Attributes:
        key: Unique within its source.
        modality: Modality of the signal.
        signal: Image float32 (3, height, width) in [0, 1]; audio float32 (channels, samples) in [-1, 1]; text str.
        sample_rate: Hz; None unless it is audio.
        caption: Description or transcript; "" if unknown.
        meta: Other properties of the item.
        notices: What was lost or changed when it was read. Whoever reads a whole source counts and reports them.
    """

    key: str
    modality: Modality
    signal: Any
    sample_rate: int | None = None
    caption: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()


class Source(ABC):
    """Random access to items. A source holds an index and no open file, so it is cheap to fork and to pickle."""

    name: str = ""
    modality: Modality | None = None
    """Modality of all items; None if it is known of each item alone."""
    skipped: int = 0
    """Number of broken items that the last pass of `items` left out."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> Item:
        """Read item i. Raises BrokenItem if it cannot be read, IndexError unless 0 ≤ i < len."""

    def large(self, i: int) -> Item | None:
        """Return item i for codecs that take it piece by piece; None if it is small or can only be read as a whole.

        Its signal is a `media.Picture` or a `media.pieces.Recording`.
        """
        return None

    def candidates(self, modality: Modality) -> Sequence[int]:
        """Return the indices of the items that may have a modality, without reading them."""
        return range(len(self) if self.modality in (None, modality) else 0)

    def contents(self) -> Iterator[tuple[str, int]]:
        """Yield name and size in bytes of each file behind the items."""
        return iter(())

    def captions(self) -> Iterator[str]:
        """Yield the caption of each readable item."""
        for i in range(len(self)):
            with suppress(BrokenItem):
                yield self[i].caption

    def items(self, strict: bool = False) -> Iterator[Item]:
        """Iterate over all readable items in order.

        Broken items are counted in `skipped` and reported in one warning at the end, as are the notices of others. With
        `strict` the first broken item raises BrokenItem.
        """
        self.skipped = 0
        broken, tally = [], notices.Tally()
        for i in range(len(self)):
            try:
                item = self[i]
            except BrokenItem as problem:
                if strict:
                    raise
                broken.append(str(problem))
                self.skipped += 1
                continue
            tally.add(item.key, item.notices)
            yield item
        warn_broken(self.name, broken, len(self), "skipped")
        tally.warn(self.name, len(self))

    def _check(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.name} has items 0 to {len(self) - 1}, not {i}")
        return i


class Subset(Source):
    """The items of `source` at `indices`, in that order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices
        self.name, self.modality = source.name, source.modality

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Item:
        return self.source[self.indices[self._check(i)]]

    def large(self, i: int) -> Item | None:
        return self.source.large(self.indices[self._check(i)])


def warn_broken(name: str, broken: Sequence[str], total: int, verb: str) -> None:
    """Warn with the number of broken items and the first one, if there are any."""
    if broken:
        warnings.warn(f"{name}: {verb} {len(broken)} broken of {total} items, first: {broken[0]}", stacklevel=3)


def choice(value: str | Modality | None) -> Modality | None:
    """Return a modality by name. Raises ValueError for an unknown name."""
    if value is None or value in tuple(Modality):
        return None if value is None else Modality(value)
    raise ValueError(f"modality must be one of {', '.join(Modality)}, got {value!r}")


def share(name: str, value: Any) -> float:
    """Return `value` if it is a number from 0 to 1. Raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share from 0 to 1, got {value!r}")
    return float(value)


def at_least(name: str, value: Any, least: int) -> int:
    """Return `value` if it is an integer of at least `least`. Raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value
