"""The base class of all kinds of documents, and the parts of a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tokenloom.codecs.types import Modality

from ..sources.source import at_least, share
from .library import Library


@dataclass(frozen=True)
class DocumentPart:
    """One segment of a document: a text, or copy number `copy` (see data/variants.py) of an item of a source.

    `channel` names a codec of the vocabulary; None is the first of the modality. `given` marks parts of the prompt,
    which have a smaller weight in the loss.
    """

    modality: Modality
    text: str = ""
    source: str = ""
    item: int = 0
    copy: int = 0
    channel: str | None = None
    given: bool = False


def text(content: str, given: bool = False) -> DocumentPart:
    """Return a text as a part."""
    return DocumentPart(Modality.TEXT, content, given=given)


def copy_suffix(modality: Modality, copy: int) -> str:
    """Return the end of a caption that names a copy."""
    if modality is not Modality.IMAGE:
        return ""  # the speed of a sound is not named
    return (", moved" if copy > 1 else "") + (", mirrored" if copy % 2 else "")


class DocumentKind:
    """Draws documents from one source.

    Args:
        library: All sources.
        source: Name of the source.
        channel: Name of the codec in the vocabulary; None: the first of the modality.
        copies: Number of copies of each signal; None: all.
        original: Share of signals that are the original. The others are random copies.
    """

    name: ClassVar[str]
    """Name in a config."""

    def __init__(
        self, library: Library, source: str, channel: str | None = None, copies: int | None = None,
        original: float = 0.5,
    ) -> None:  # fmt: skip
        if source not in library:
            raise ValueError(f"data.kinds: source must be one of {', '.join(library)}, got {source!r}")
        self.source, self.channel = source, channel
        self.original = share("data.kinds: original", original)
        self.modality, self.captions = library[source].modality, library[source].captions
        if self.modality is Modality.TEXT:
            raise ValueError(f"data.kinds: source {source!r} holds texts; documents need images or sounds")
        self.copies = at_least("data.kinds: copies", library[source].copies if copies is None else copies, 1)

    @property
    def uses(self) -> list[tuple[str, str | None, int]]:
        """(source, channel, copies) of the needed tokens, of each source."""
        return [(self.source, self.channel, self.copies)]

    def draw(self, rng: np.random.Generator) -> list[DocumentPart]:
        """Draw one document."""
        raise NotImplementedError

    def part(self, item: int, copy: int = 0, given: bool = False) -> DocumentPart:
        """Return an item of the source as a part."""
        return DocumentPart(self.modality, "", self.source, item, copy, self.channel, given)

    def copy(self, rng: np.random.Generator) -> int:
        """Draw the original or any copy."""
        return 0 if rng.random() < self.original else int(rng.integers(self.copies))


def merge_texts(parts: Sequence[DocumentPart]) -> list[DocumentPart]:
    """Join adjacent texts into one part."""
    merged: list[DocumentPart] = []
    for part in parts:
        if merged and part.modality is Modality.TEXT is merged[-1].modality:
            part = text(merged.pop().text + part.text, part.given)
        merged.append(part)
    return merged
