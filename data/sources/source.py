"""What a source of signals is: a sequence of items, read when asked for."""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality


class BrokenItem(ValueError):
    """An item that cannot be read; its message is one line: which file, and why."""


def decode(data: bytes, modality: Modality, where: object) -> tuple[Tensor | str, int | None]:
    """The bytes of a file → (signal, Hz or None). Raises BrokenItem, which says `where`."""
    try:
        signal = media.read(data, modality)
        return signal, media.sample_rate(data) if modality is Modality.AUDIO else None
    except ValueError as error:
        reason = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", " ".join(str(error).split()))
        raise BrokenItem(f"{where}: {reason}") from error


@dataclass(frozen=True)
class Item:
    """One signal at its native size and rate.

    key          unique within its source
    signal       image float32 (3, height, width) in [0, 1]; audio float32 (channels, samples)
                 in [-1, 1]; text str
    sample_rate  Hz, for audio only
    caption      what the item shows or says; "" where unknown
    meta         whatever else is known of it
    """

    key: str
    modality: Modality
    signal: Tensor | str
    sample_rate: int | None = None
    caption: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


class Source(ABC):
    """Random access to items. Holds an index and no open file, so it is cheap to fork and to pickle."""

    name: str = ""
    skipped: int = 0
    """How many broken items the last pass of `items` left out."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> Item:
        """Item i of 0 … len − 1. Raises BrokenItem where it cannot be read, IndexError outside."""

    def items(self, strict: bool = False) -> Iterator[Item]:
        """All healthy items in order.

        Broken ones are counted in `skipped` and told of in one warning at the end; with
        `strict` the first one is raised as BrokenItem.
        """
        self.skipped = 0
        broken = []
        for i in range(len(self)):
            try:
                item = self[i]
            except BrokenItem as problem:
                if strict:
                    raise
                broken.append(str(problem))
                self.skipped += 1
                continue
            yield item
        warn_broken(self.name, broken, len(self), "skipped")

    def _check(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.name} has items 0 to {len(self) - 1}, not {i}")
        return i


def warn_broken(name: str, broken: Sequence[str], total: int, what: str) -> None:
    """One warning that counts the broken items and shows the first; none if there are none."""
    if broken:
        warnings.warn(f"{name}: {what} {len(broken)} broken of {total} items, first: {broken[0]}", stacklevel=3)


def choice(value: str | Modality | None) -> Modality | None:
    """A modality by name; ValueError with the allowed ones otherwise."""
    if value is None or value in tuple(Modality):
        return None if value is None else Modality(value)
    raise ValueError(f"modality {value!r} is none of {', '.join(Modality)}")


def at_least(name: str, value: Any, least: int) -> int:
    """`value` if it is an integer of at least `least`; one-line ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} {value!r} is not an integer of at least {least}")
    return value
