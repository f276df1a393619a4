"""Kinds of documents over any captioned source."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..sources.source import at_least, share
from .kind import DocumentKind, DocumentPart, copy_suffix, merge_texts, text
from .library import Library

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class CaptionDocument(DocumentKind):
    """A caption and its signal, or in a share `reverse` of the documents a signal and its caption.

    A prompt names the copy if it is not the original: `red heart, moved`, `red heart, moved, mirrored`. Captions that
    the model has to write do not.

    Args:
        reverse: Share of documents from signal to caption.
        aliases: Caption → other prompts for the same signal.
        only: Regular expression that selects captions.
    """

    name = "caption"

    def __init__(
        self, library: Library, source: str, reverse: float = 0.3, aliases: dict[str, list[str]] | None = None,
        only: str = "", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(library, source, **options)
        try:
            self.items = [item for item, caption in enumerate(self.captions) if re.search(only, caption)]
        except (re.error, TypeError) as error:
            raise ValueError(f"data.kinds: only must be a regular expression, got {only!r:.80}: {error}") from error
        if not self.items:
            raise ValueError(f"data.kinds: no caption of {source} matches only={only!r}")
        self.reverse, self.aliases = share("data.kinds: reverse", reverse), aliases or {}
        if not isinstance(self.aliases, Mapping) or any(isinstance(words, str) for words in self.aliases.values()):
            raise ValueError(
                f"data.kinds: aliases must be a mapping such as {{keycap 7: [seven]}}, got {aliases!r:.80}"
            )

    def draw(self, rng: np.random.Generator) -> list[DocumentPart]:
        item = self.items[int(rng.integers(len(self.items)))]
        caption = self.captions[item]
        if rng.random() < self.reverse:
            return [self.part(item, self.copy(rng), given=True), text(caption)]
        copy = self.copy(rng)
        words = [caption, *self.aliases.get(caption, ())]
        prompt = words[int(rng.integers(len(words)))]
        return [text(prompt + copy_suffix(self.modality, copy), given=True), self.part(item, copy)]


class SeriesDocument(DocumentKind):
    """`count` random pairs of caption and signal."""

    name = "series"

    def __init__(self, library: Library, source: str, count: int = 2, **options: Any) -> None:
        super().__init__(library, source, **options)
        self.count = at_least("data.kinds: count", count, 1)

    def draw(self, rng: np.random.Generator) -> list[DocumentPart]:
        items = rng.integers(len(self.captions), size=self.count).tolist()
        return [part for item in items for part in (text(self.captions[item]), self.part(item))]


class SumDocument(DocumentKind):
    """`three plus four`, then `seven` as a text and as a signal. Each summand may be a signal.

    Args:
        named: Template of the captions of digits, with {word} or {digit}.
    """

    name = "sum"

    def __init__(self, library: Library, source: str, named: str = "{word}", **options: Any) -> None:
        super().__init__(library, source, **options)
        by_caption = defaultdict(list)
        for item, caption in enumerate(self.captions):
            by_caption[caption].append(item)
        try:
            names = [named.format(word=word, digit=digit) for digit, word in enumerate(DIGITS)]
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise ValueError(
                f"data.kinds: named must be a text with {{word}} or {{digit}}, got {named!r:.80}"
            ) from error
        if missing := [name for name in names if name not in by_caption]:
            raise ValueError(f"data.kinds: {source} has no item with the caption {missing[0]!r}")
        self.items = [by_caption[name] for name in names]

    def draw(self, rng: np.random.Generator) -> list[DocumentPart]:
        total = int(rng.integers(10))
        first = int(rng.integers(total + 1))
        summands, as_signal = (first, total - first), rng.random(2) < 0.5
        parts: list[DocumentPart] = []
        for place, (number, signal) in enumerate(zip(summands, as_signal, strict=True)):
            plus = " plus " if place else ""
            if not signal:
                parts.append(text(plus + DIGITS[number], given=True))
            else:
                parts += ([text(plus, given=True)] if plus else []) + [self._signal(number, rng, given=True)]
        return [*merge_texts(parts), text(DIGITS[total]), self._signal(total, rng)]

    def _signal(self, number: int, rng: np.random.Generator, given: bool = False) -> DocumentPart:
        items = self.items[number]
        return self.part(items[int(rng.integers(len(items)))], self.copy(rng), given)
