"""Retrieval: the picture of a gallery that is nearest to an image, and the word that a picture shows."""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenloom.codecs.media import to_uint8
from tokenloom.data.sources import words


class Gallery:
    """Pictures of one size, float32 (3, height, width) in [0, 1], searched by mean squared error of 8-bit RGB.

    `same` has for each picture the number of the first identical one.
    """

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        self.size = tuple(pictures[0].shape)
        self.pixels = torch.stack([_flat(picture) for picture in pictures])
        first: dict[bytes, int] = {}
        self.same = [first.setdefault(row.numpy().tobytes(), i) for i, row in enumerate(self.pixels)]
        self._norms = self.pixels.square().sum(1)

    def __len__(self) -> int:
        return len(self.pixels)

    def nearest(self, pictures: Sequence[Tensor]) -> list[int]:
        """Return the number of the picture nearest to each image. Raises ValueError for another size."""
        found = []
        for start in range(0, len(pictures), 64):
            queries = torch.stack([self._query(picture) for picture in pictures[start : start + 64]])
            # |a − b|² without |a|², which is the same for all; float32 rounds it, so the nearest few are compared
            # by exact sums
            rough = self._norms - 2 * queries @ self.pixels.T
            near = rough.topk(min(4, len(self)), largest=False).indices
            exact = (self.pixels[near] - queries[:, None]).double().square().sum(2)
            found += near.gather(1, exact.argmin(1, keepdim=True))[:, 0].tolist()
        return found

    def hits(self, pictures: Sequence[Tensor], wanted: Sequence[int]) -> list[bool]:
        """Return whether each image is nearest to the wanted picture, or to an identical one."""
        nearest = self.nearest(pictures)
        return [self.same[n] == self.same[w] for n, w in zip(nearest, wanted, strict=True)]

    def _query(self, picture: Tensor) -> Tensor:
        if tuple(picture.shape) != self.size:
            raise ValueError(f"pictures must have the shape of the gallery, {self.size}, got {tuple(picture.shape)}")
        return _flat(picture)


def _flat(picture: Tensor) -> Tensor:
    """Return 8-bit values minus 128 as float32: integers, so that identical pictures are equal."""
    return to_uint8(picture).flatten().float() - 128


def neighbors(word: str) -> list[str]:
    """Return the word, and all words that differ from it in one letter."""
    others = (word[:i] + c + word[i + 1 :] for i in range(len(word)) for c in string.ascii_uppercase if c != word[i])
    return [word, *others]


def read_word(picture: Tensor, word: str, ink: str) -> str:
    """Return which of `neighbors(word)`, rendered in the same ink and size, the picture is nearest to."""
    candidates = neighbors(word)
    gallery = Gallery([words.render(candidate, ink, picture.shape[-1]) for candidate in candidates])
    return candidates[gallery.nearest([picture])[0]]
