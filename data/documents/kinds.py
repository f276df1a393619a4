"""The kinds of documents: what stands in a row, and in which words."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenloom.codecs.types import Modality

from ..sources.source import at_least

if TYPE_CHECKING:
    from .documents import Library

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_TONE = re.compile(r" (light|medium-light|medium-dark|medium|dark) skin tone")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Part:
    """One segment of a document: a text, or a copy of an item of a source by number.

    channel  the codec's name in the vocabulary; None: the first of the modality
    given    what a person would give: it is read, and learned from less
    """

    modality: Modality
    text: str = ""
    source: str = ""
    item: int = 0
    copy: int = 0
    channel: str | None = None
    given: bool = False


def share(name: str, value: Any) -> float:
    """`value` if it is a number from 0 to 1; one-line ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"data.kinds: {name} {value!r} is not a share within 0 to 1")
    return float(value)


def text(content: str, given: bool = False) -> Part:
    return Part(Modality.TEXT, content, given=given)


def tone(caption: str) -> tuple[str, str | None] | None:
    """`waving hand dark skin tone` → (`waving hand`, `dark`); (caption, None) without one; None where there are two."""
    found = _TONE.findall(caption)
    if len(found) > 1:
        return None
    return _TONE.sub("", caption), found[0] if found else None


class Kind:
    """Draws documents over one source of a library.

    channel  the codec's name in the vocabulary; None: the first of the modality
    copies   how many copies of each signal take part; None: as many as the library has
    original the share of signals that are themselves and no other copy
    """

    def __init__(
        self, library: Library, source: str, channel: str | None = None, copies: int | None = None,
        original: float = 0.5,
    ) -> None:  # fmt: skip
        if source not in library.sources:
            raise ValueError(f"data.kinds: source {source!r} is none of {', '.join(library.sources)}")
        self.library, self.source, self.channel = library, source, channel
        self.original = share("original", original)
        self.modality, self.captions = library.modalities[source], library.captions[source]
        if self.modality is Modality.TEXT:
            raise ValueError(f"data.kinds: source {source!r} holds texts; documents are made of pictures and sounds")
        self.copies = at_least("data.kinds: copies", library.copies[self.modality] if copies is None else copies, 1)

    @property
    def uses(self) -> tuple[str, str | None, int]:
        """(source, channel, copies): the tokens that its documents need."""
        return self.source, self.channel, self.copies

    def draw(self, rng: np.random.Generator) -> list[Part]:
        raise NotImplementedError

    def part(self, item: int, copy: int = 0, given: bool = False) -> Part:
        return Part(self.modality, "", self.source, item, copy, self.channel, given)

    def copy(self, rng: np.random.Generator) -> int:
        """The original, or any copy."""
        return 0 if rng.random() < self.original else int(rng.integers(self.copies))


class Caption(Kind):
    """A caption, then what it names; or, in a share `reverse` of the cases, the other way round.

    A copy other than the original is announced: `red heart, moved`, `red heart, moved, mirrored`. What is
    asked for without these words is the original. Captions that name a copy are never to be written.

    reverse  the share of documents that go from the signal to its caption
    aliases  caption → other words that ask for the same
    only     a regular expression that captions have to match
    """

    def __init__(
        self, library: Library, source: str, reverse: float = 0.3, aliases: dict[str, list[str]] | None = None,
        only: str = "", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(library, source, **options)
        try:
            self.items = [item for item, caption in enumerate(self.captions) if re.search(only, caption)]
        except (re.error, TypeError) as error:
            raise ValueError(f"data.kinds: only {only!r:.80} is no regular expression: {error}") from error
        if not self.items:
            raise ValueError(f"data.kinds: no caption of {source} matches only={only!r}")
        self.reverse, self.aliases = share("reverse", reverse), aliases or {}
        if not isinstance(self.aliases, Mapping) or any(isinstance(words, str) for words in self.aliases.values()):
            raise ValueError(f"data.kinds: aliases {aliases!r:.80} is no mapping such as {{keycap 7: [seven]}}")

    def draw(self, rng: np.random.Generator) -> list[Part]:
        item = self.items[int(rng.integers(len(self.items)))]
        caption = self.captions[item]
        if rng.random() < self.reverse:
            return [self.part(item, self.copy(rng), given=True), text(caption)]
        copy = self.copy(rng)
        words = [caption, *self.aliases.get(caption, ())]
        asked = words[int(rng.integers(len(words)))]
        return [text(asked + said(self.modality, copy), given=True), self.part(item, copy)]


def said(modality: Modality, copy: int) -> str:
    """How a caption announces a copy."""
    if modality is not Modality.IMAGE:
        return ""  # a voice may be quick or slow without saying so
    return (", moved" if copy > 1 else "") + (", mirrored" if copy % 2 else "")


class Toned(Kind):
    """Over pictures whose captions differ in one skin tone and nothing else."""

    def __init__(self, library: Library, source: str, **options: Any) -> None:
        super().__init__(library, source, **options)
        found: dict[str, dict[str | None, int]] = defaultdict(dict)
        for item, caption in enumerate(self.captions):
            if known := tone(caption):
                found[known[0]][known[1]] = item
        self.figures = [tones for tones in found.values() if len(tones) > 1]
        if len(self.figures) < 2:
            raise ValueError(f"data.kinds: {source} has no two captions that differ in their skin tone alone")

    def two(self, rng: np.random.Generator, figure: int) -> tuple[str | None, str | None]:
        """Two different tones of a figure; the second is a tone (not None)."""
        tones = list(self.figures[figure])
        second = [t for t in tones if t]
        b = second[int(rng.integers(len(second)))]
        rest = [t for t in tones if t != b]
        return rest[int(rng.integers(len(rest)))], b


class Edit(Toned):
    """A picture, an instruction, the picture that follows: another skin tone, or its mirror image.

    Before the first one its caption may stand, so that it is learned from too.
    """

    def draw(self, rng: np.random.Generator) -> list[Part]:
        captioned, mirrors = rng.random(2)
        if mirrors < 0.1 and self.copies > 1:
            item, copy = int(rng.integers(len(self.captions))), self.copy(rng)
            mirror = copy + 1 if copy % 2 == 0 else copy - 1
            if mirror < self.copies:
                return [self.part(item, copy, given=True), text("mirror it", given=True), self.part(item, mirror)]
        figure = int(rng.integers(len(self.figures)))
        a, b = self.two(rng, figure)
        tones, copy = self.figures[figure], self.copy(rng)
        parts = [text(f"make it {b} skin tone", given=True), self.part(tones[b], copy)]
        if captioned < 0.5:
            caption = self.captions[tones[a]] + said(self.modality, copy)
            return [text(caption, given=True), self.part(tones[a], copy), *parts]
        return [self.part(tones[a], copy, given=True), *parts]


class Analogy(Toned):
    """Four pictures: A, A in another tone, B in the first tone, B in the second."""

    def __init__(self, library: Library, source: str, **options: Any) -> None:
        super().__init__(library, source, **options)
        pairs = Counter(pair for tones in self.figures for pair in itertools.combinations(sorted(tones, key=str), 2))
        if max(pairs.values()) < 2:
            raise ValueError(f"data.kinds: {source} has no two figures that share two skin tones")

    def draw(self, rng: np.random.Generator) -> list[Part]:
        while True:
            first, second = (int(n) for n in rng.integers(len(self.figures), size=2))
            a, b = self.two(rng, first)
            if first != second and {a, b} <= set(self.figures[second]):
                break
        copy = self.copy(rng)
        pictures = [self.figures[figure][tone] for figure in (first, second) for tone in (a, b)]
        return [self.part(item, copy, given=place == 0) for place, item in enumerate(pictures)]


class Series(Kind):
    """Caption, picture, caption, picture: any of them follows on any."""

    def __init__(self, library: Library, source: str, count: int = 2, **options: Any) -> None:
        super().__init__(library, source, **options)
        self.count = at_least("data.kinds: count", count, 1)

    def draw(self, rng: np.random.Generator) -> list[Part]:
        items = rng.integers(len(self.captions), size=self.count).tolist()
        return [part for item in items for part in (text(self.captions[item]), self.part(item))]


class Sum(Kind):
    """`three plus four`, then `seven`, written and as a signal of the source. Each number may be given as a signal.

    named  number → the caption of the items that mean it, where that is not the word itself:
           pictures of keycaps, say. A document has signals of this source alone
    """

    def __init__(self, library: Library, source: str, named: str = "{word}", **options: Any) -> None:
        super().__init__(library, source, **options)
        where = defaultdict(list)
        for item, caption in enumerate(self.captions):
            where[caption].append(item)
        try:
            names = [named.format(word=word, digit=digit) for digit, word in enumerate(DIGITS)]
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise ValueError(f"data.kinds: named {named!r:.80} is no text with {{word}} or {{digit}} in it") from error
        if missing := [name for name in names if name not in where]:
            raise ValueError(f"data.kinds: {source} has no item with the caption {missing[0]!r}")
        self.items = [where[name] for name in names]

    def draw(self, rng: np.random.Generator) -> list[Part]:
        total = int(rng.integers(10))
        first = int(rng.integers(total + 1))
        numbers, spoken = (first, total - first), rng.random(2) < 0.5
        parts: list[Part] = []
        for place, (number, signal) in enumerate(zip(numbers, spoken, strict=True)):
            plus = " plus " if place else ""
            if not signal:
                parts.append(text(plus + DIGITS[number], given=True))
            else:
                parts += ([text(plus, given=True)] if plus else []) + [self._signal(number, rng, given=True)]
        return [*_joined(parts), text(DIGITS[total]), self._signal(total, rng)]

    def _signal(self, number: int, rng: np.random.Generator, given: bool = False) -> Part:
        items = self.items[number]
        return self.part(items[int(rng.integers(len(items)))], self.copy(rng), given)


def _joined(parts: list[Part]) -> list[Part]:
    """Texts that stand side by side become one."""
    joined: list[Part] = []
    for part in parts:
        if joined and part.modality is Modality.TEXT is joined[-1].modality:
            part = text(joined.pop().text + part.text, part.given)
        joined.append(part)
    return joined


KINDS: dict[str, type[Kind]] = {
    "caption": Caption,
    "edit": Edit,
    "analogy": Analogy,
    "series": Series,
    "sum": Sum,
}
