"""Kinds of documents over emoji whose captions name a skin tone or a style."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from .kind import DocumentKind, DocumentPart, copy_suffix, text
from .library import Library

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_TONE = re.compile(r" (light|medium-light|medium-dark|medium|dark) skin tone")


def split_tone(caption: str) -> tuple[str, str | None] | None:
    """Split `waving hand dark skin tone` into (`waving hand`, `dark` or None). Returns None for two tones."""
    found = _TONE.findall(caption)
    if len(found) > 1:
        return None
    return _TONE.sub("", caption), found[0] if found else None


def split_style(caption: str) -> tuple[str, str]:
    """Split `red heart, blob` into (`red heart`, `blob`). The first part is empty if no comma is there."""
    name, _, style = caption.rpartition(", ")
    return name, style


class TonedDocument(DocumentKind):
    """Base class of documents over images whose captions differ only in a skin tone."""

    def __init__(self, library: Library, source: str, **options: Any) -> None:
        super().__init__(library, source, **options)
        found: dict[str, dict[str | None, int]] = defaultdict(dict)
        for item, caption in enumerate(self.captions):
            if known := split_tone(caption):
                found[known[0]][known[1]] = item
        self.emoji = [items for items in found.values() if len(items) > 1]
        """Tone → item, for each emoji with several tones."""
        if len(self.emoji) < 2:
            raise ValueError(f"data.kinds: {source} needs two captions that differ only in their skin tone")

    def draw_tones(self, rng: np.random.Generator, emoji: int) -> tuple[str | None, str]:
        """Draw two different tones of an emoji. Only the first may be None."""
        tones = list(self.emoji[emoji])
        named = [tone for tone in tones if tone]
        b = named[int(rng.integers(len(named)))]
        rest = [tone for tone in tones if tone != b]
        return rest[int(rng.integers(len(rest)))], b


class EditDocument(TonedDocument):
    """An image, an instruction, and the edited image: another skin tone, or the mirror image.

    The caption of the first image may precede it.
    """

    name = "edit"

    def draw(self, rng: np.random.Generator) -> list[DocumentPart]:
        captioned, mirrors = rng.random(2)
        if mirrors < 0.1 and self.copies > 1:
            item, copy = int(rng.integers(len(self.captions))), self.copy(rng)
            mirror = copy + 1 if copy % 2 == 0 else copy - 1
            if mirror < self.copies:
                return [self.part(item, copy, given=True), text("mirror it", given=True), self.part(item, mirror)]
        emoji = int(rng.integers(len(self.emoji)))
        a, b = self.draw_tones(rng, emoji)
        items, copy = self.emoji[emoji], self.copy(rng)
        parts = [text(f"make it {b} skin tone", given=True), self.part(items[b], copy)]
        if captioned < 0.5:
            caption = self.captions[items[a]] + copy_suffix(self.modality, copy)
            return [text(caption, given=True), self.part(items[a], copy), *parts]
        return [self.part(items[a], copy, given=True), *parts]


class AnalogyDocument(TonedDocument):
    """Four images: emoji A, A in another tone, B in the first tone, B in the second tone."""

    name = "analogy"

    def __init__(self, library: Library, source: str, **options: Any) -> None:
        super().__init__(library, source, **options)
        pairs = Counter(pair for items in self.emoji for pair in itertools.combinations(sorted(items, key=str), 2))
        if max(pairs.values()) < 2:
            raise ValueError(f"data.kinds: {source} needs two emoji that share two skin tones")

    def draw(self, rng: np.random.Generator) -> list[DocumentPart]:
        while True:
            first, second = (int(n) for n in rng.integers(len(self.emoji), size=2))
            a, b = self.draw_tones(rng, first)
            if first != second and {a, b} <= set(self.emoji[second]):
                break
        copy = self.copy(rng)
        items = [self.emoji[emoji][tone] for emoji in (first, second) for tone in (a, b)]
        return [self.part(item, copy, given=place == 0) for place, item in enumerate(items)]


class StyleDocument(DocumentKind):
    """An image, an instruction such as `draw it as twemoji`, and the image of the same name in that style.

    The caption of the first image may precede it.

    Args:
        source: Source of images with captions `name, style`.
        plain: Source of images of one style, whose captions are the names alone; None if there is none.
        plain_style: Name of that style in instructions.
    """

    name = "style"

    def __init__(
        self, library: Library, source: str, plain: str | None = None, plain_style: str = "noto", **options: Any
    ) -> None:
        super().__init__(library, source, **options)
        if plain is not None and plain not in library:
            raise ValueError(f"data.kinds: plain must be one of {', '.join(library)}, got {plain!r}")
        found: dict[str, dict[str, tuple[str, int]]] = defaultdict(dict)
        for item, caption in enumerate(self.captions):
            name, style = split_style(caption)
            if not name:
                raise ValueError(f"data.kinds: captions of {source} must be `name, style`, got {caption!r:.80}")
            found[name][style] = source, item
        self.plain, self.library = plain, library
        for item, name in enumerate(() if plain is None else library[plain].captions):
            found[name][plain_style] = str(plain), item
        self.images = [styles for styles in found.values() if len(styles) > 1]
        """Style → source and item, for each name with several styles."""
        if not self.images:
            raise ValueError(f"data.kinds: {source} needs two captions that differ only in their style")

    @property
    def uses(self) -> list[tuple[str, str | None, int]]:
        return super().uses + ([] if self.plain is None else [(self.plain, self.channel, self.copies)])

    def draw(self, rng: np.random.Generator) -> list[DocumentPart]:
        styles = self.images[int(rng.integers(len(self.images)))]
        given, drawn = (list(styles)[int(n)] for n in rng.choice(len(styles), 2, replace=False))
        copy, captioned = self.copy(rng), rng.random() < 0.5
        image, result = (
            DocumentPart(self.modality, "", *styles[style], copy, self.channel, given=style == given)
            for style in (given, drawn)
        )
        before = [
            text(f"{self.library[image.source].captions[image.item]}{copy_suffix(self.modality, copy)}", given=True)
        ]
        return [*(before if captioned else []), image, text(f"draw it as {drawn}", given=True), result]
