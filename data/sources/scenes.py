"""Captioned images, generated from a seed: colored shapes on a grid, and rendered words."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tokenloom.codecs.media.images import read_image
from tokenloom.codecs.types import Modality

from .source import Item, Source, at_least, share

COLORS = {
    "red": (214, 48, 49),
    "orange": (241, 143, 35),
    "yellow": (250, 211, 62),
    "green": (46, 160, 87),
    "blue": (43, 99, 217),
    "purple": (133, 67, 190),
    "pink": (244, 139, 184),
    "brown": (128, 84, 52),
    "black": (28, 28, 32),
    "white": (252, 252, 250),
}
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
SIZES = {"small": 0.21, "": 0.28, "large": 0.35}  # of a shape, relative to the side of the image
SHAPES = ("circle", "square", "triangle", "diamond", "star", "ring", "cross", "hexagon")
# fmt: off
WORDS = (
    "sun", "moon", "star", "sky", "rain", "snow", "wind", "fire", "tree", "leaf", "rose", "bird", "fish", "cat",
    "dog", "fox", "bear", "wolf", "boat", "ship", "car", "door", "book", "song", "drum", "bell", "hand", "eye",
    "heart", "gold", "iron", "salt", "milk", "tea", "bread", "apple", "lemon", "one", "two", "three", "four", "yes",
    "no", "hello", "open", "code", "pixel", "sound",
)
# fmt: on
SUPERSAMPLING = 4
_CONTRAST = 130  # smallest RGB distance between a shape and the background


class Scenes(Source):
    """Images whose captions name everything they show. Item i is a pure function of (seed, i).

    `size` is the side in pixels, and `words` the share of images that show a rendered word instead of shapes.
    """

    name = "scenes"
    modality = Modality.IMAGE

    def __init__(self, count: int = 1000, size: int = 64, seed: int = 0, words: float = 0.3) -> None:
        self.count, self.size = at_least("count", count, 1), at_least("size", size, 16)
        self.seed = at_least("seed", seed, 0)
        self.words = share("words", words)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Item:
        rng = np.random.default_rng([self.seed, self._check(i)])
        side = self.size * SUPERSAMPLING
        ground, *others = (str(c) for c in rng.permutation(list(COLORS)))
        colors = [c for c in others if math.dist(COLORS[c], COLORS[ground]) >= _CONTRAST]
        canvas = Image.new("RGB", (side, side), COLORS[ground])
        draw = ImageDraw.Draw(canvas)
        caption = (_word if rng.random() < self.words else _shapes)(draw, side, rng, colors)
        image = read_image(canvas.reduce(SUPERSAMPLING))  # a box filter smooths the edges
        return Item(f"scene-{i:06d}", Modality.IMAGE, image, None, f"{caption} on {ground}")


def _word(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator, colors: list[str]) -> str:
    word = str(rng.choice(WORDS))
    width = side * rng.uniform(0.6, 0.85)
    points = 0.4 * side
    points *= min(width / draw.textlength(word, font=ImageFont.load_default(points)), 1)
    where = (side * rng.uniform(0.47, 0.53), side * rng.uniform(0.3, 0.7))
    draw.text(where, word, fill=COLORS[colors[0]], font=ImageFont.load_default(points), anchor="mm")
    return f'the word "{word}" in {colors[0]}'


def _shapes(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator, colors: list[str]) -> str:
    """Draw one to three shapes in different cells of a 3 × 3 grid, in reading order. Return the caption."""
    cells = sorted(int(c) for c in rng.choice(9, size=rng.integers(1, 4), replace=False))
    parts = []
    for cell, color in zip(cells, colors[: len(cells)], strict=True):
        shape, size = str(rng.choice(SHAPES)), str(rng.choice(list(SIZES)))
        x, y = (side * (0.2 + 0.3 * k) + side * rng.uniform(-0.02, 0.02) for k in (cell % 3, cell // 3))
        _draw(draw, shape, (x, y), side * SIZES[size] / 2, COLORS[color])
        where = "in the centre" if PLACES[cell] == "centre" else f"at the {PLACES[cell]}"
        parts.append(f"{f'a {size} {color}' if size else _article(color)} {shape} {where}")
    return ", ".join(parts)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _draw(
    draw: ImageDraw.ImageDraw, shape: str, center: tuple[float, float], r: float, color: tuple[int, int, int]
) -> None:
    """Draw a shape within the circle of radius r."""
    x, y = center
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=color, width=round(0.4 * r))
    elif shape == "square":
        draw.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=color)
    elif shape == "cross":
        draw.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill=color)
        draw.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill=color)
    else:
        corners = {"triangle": 3, "diamond": 4, "hexagon": 6, "star": 10}[shape]
        radii = [r * (0.42 if shape == "star" and k % 2 else 1.0) for k in range(corners)]
        angles = [2 * math.pi * k / corners - math.pi / 2 for k in range(corners)]
        draw.polygon([(x + q * math.cos(a), y + q * math.sin(a)) for q, a in zip(radii, angles, strict=True)], color)
