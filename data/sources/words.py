"""Short words in capital letters, drawn from a seed: what a model has to spell, letter by letter."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tokenloom.codecs.types import Modality

from .scenes import COLOURS
from .source import Item, Source, at_least

INKS = {name: COLOURS[name] for name in ("black", "red", "green", "blue", "purple", "brown")} | {"green": (30, 130, 70)}
"""Those of the scenes' colours that can be read on white, and a darker green."""
LETTERS = 4
"""The most letters of a word: each has a quarter of the picture's width."""
SPLITS = ("train", "test")
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPQRSTVWXYZ", "AEIOU"
_TESTED = 8  # one word in this many is of the split "test"
_SUPERSAMPLING = 4


class Words(Source):
    """Pictures of words of 2 to 4 letters on white, captioned `the word SHIP in red`; item i is a pure
    function of (seed, split, i).

    Words are made up, mostly of consonants and vowels in turn. Whether a word is of the split "train" or
    "test" depends on the word alone (`split`), whatever the seed: what is tested was never trained on.

    count  how many items
    size   height and width in pixels, at least 16
    seed   at least 0
    split  train or test
    """

    name = "words"

    def __init__(self, count: int = 1000, size: int = 64, seed: int = 0, split: str = "train") -> None:
        self.count, self.size, self.seed = at_least("count", count, 1), at_least("size", size, 16), seed
        at_least("seed", seed, 0)
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
        self.split = split

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Item:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), self._check(i)])
        ink = str(rng.choice(list(INKS)))
        while split(word := _make_up(rng)) != self.split:
            pass
        return Item(f"word-{i:06d}", Modality.IMAGE, render(word, ink, self.size), None, caption(word, ink))


def caption(word: str, ink: str) -> str:
    return f"the word {word} in {ink}"


def split(word: str) -> str:
    """The split that a word is of."""
    return SPLITS[zlib.crc32(word.upper().encode()) % _TESTED == 0]


def render(word: str, ink: str, size: int = 64) -> Tensor:
    """A word of 1 to 4 letters → float32 (3, size, size) in [0, 1]: each letter centred in a cell of a quarter's
    width, the word centred in the picture. ValueError for a longer word or another ink."""
    if not 1 <= len(word) <= LETTERS:
        raise ValueError(f"{word!r:.40} has {len(word)} letters; 1 to {LETTERS} fit")
    if ink not in INKS:
        raise ValueError(f"ink {ink!r} is none of {', '.join(INKS)}")
    side = size * _SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(0.3 * side)  # capitals just under a quarter high; a W alone leaves its cell, by 1/32
    left = (1 - len(word) / LETTERS) / 2
    for place, letter in enumerate(word.upper()):
        at = side * (left + (place + 0.5) / LETTERS), side * 0.61
        draw.text(at, letter, fill=INKS[ink], font=font, anchor="ms", stroke_width=side / 128)
    pixels = np.array(canvas.reduce(_SUPERSAMPLING))
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).contiguous()


def _make_up(rng: np.random.Generator) -> str:
    """Vowels and consonants in turn, and now and then any letters at all."""
    length = int(rng.integers(2, LETTERS + 1))
    if rng.random() < 0.25:
        return "".join(rng.choice(list(_CONSONANTS + _VOWELS), length))
    first = int(rng.integers(2))
    return "".join(rng.choice(list((_CONSONANTS, _VOWELS)[(first + k) % 2])) for k in range(length))
