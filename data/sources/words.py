"""Images of short made-up words in capital letters, generated from a seed. A model learns to spell with them."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tokenloom.codecs.media.images import read_image
from tokenloom.codecs.types import Modality

from .scenes import COLORS, SUPERSAMPLING
from .source import Item, Source, at_least

INKS = {name: COLORS[name] for name in ("black", "red", "green", "blue", "purple", "brown")} | {"green": (30, 130, 70)}
"""The colors of `Scenes` that are legible on white, with a darker green."""
LETTERS = 4
"""Largest number of letters in a word. Each letter takes a quarter of the width."""
SPLITS = ("train", "test")
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPQRSTVWXYZ", "AEIOU"
_TESTED = 8  # one word in this many is in the split "test"


class Words(Source):
    """Images of words of 2 to 4 letters on white, captioned `the word SHIP in red`; `meta["text"]` is the word.

    Item i is a pure function of (seed, split, i). Most words alternate consonants and vowels. A word
    alone determines its split ("train" or "test"), so no test word occurs in training.
    """

    name = "words"
    modality = Modality.IMAGE

    def __init__(self, count: int = 1000, size: int = 64, seed: int = 0, split: str = "train") -> None:
        self.count, self.size = at_least("count", count, 1), at_least("size", size, 16)
        self.seed = at_least("seed", seed, 0)
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.split = split

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Item:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), self._check(i)])
        ink = str(rng.choice(list(INKS)))
        while split(word := _random_word(rng)) != self.split:
            pass
        image = render(word, ink, self.size)
        return Item(f"word-{i:06d}", Modality.IMAGE, image, None, caption(word, ink), {"text": word.upper()})


def caption(word: str, ink: str) -> str:
    return f"the word {word} in {ink}"


def split(word: str) -> str:
    """Return the split of a word."""
    return SPLITS[zlib.crc32(word.upper().encode()) % _TESTED == 0]


def render(word: str, ink: str, size: int = 64) -> Tensor:
    """Render a word of 1 to 4 letters as float32 (3, size, size) in [0, 1], each letter in a quarter of the width."""
    if not 1 <= len(word) <= LETTERS:
        raise ValueError(f"{word!r:.40} must have 1 to {LETTERS} letters, got {len(word)}")
    if ink not in INKS:
        raise ValueError(f"ink must be one of {', '.join(INKS)}, got {ink!r}")
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(0.3 * side)  # capitals are nearly a quarter high; only W is too wide, by 1/32
    left = (1 - len(word) / LETTERS) / 2
    for place, letter in enumerate(word.upper()):
        at = side * (left + (place + 0.5) / LETTERS), side * 0.61
        draw.text(at, letter, fill=INKS[ink], font=font, anchor="ms", stroke_width=side / 128)
    return read_image(canvas.reduce(SUPERSAMPLING))


def _random_word(rng: np.random.Generator) -> str:
    """Draw alternating vowels and consonants, or in a quarter of the cases any letters."""
    length = int(rng.integers(2, LETTERS + 1))
    if rng.random() < 0.25:
        return "".join(rng.choice(list(_CONSONANTS + _VOWELS), length))
    first = int(rng.integers(2))
    return "".join(rng.choice(list((_CONSONANTS, _VOWELS)[(first + k) % 2])) for k in range(length))
