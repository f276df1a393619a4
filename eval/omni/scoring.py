"""Scores of generated images and speech.

An image is right if its nearest neighbor in both emoji packs, by pixel MSE, is the expected picture or an identical
one. Speech is right if a classifier of spoken words recognizes the expected word.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tokenloom.codecs.media import to_uint8
from tokenloom.data.sources import words

from ..classifiers import spoken_words
from ..classifiers.fitting import training_bar
from ..classifiers.spoken_words import SpokenWordClassifier, resample
from .packs import PackFolder
from .records import share


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
        """Return the number of the picture nearest to each image. Raises ValueError for images of another size."""
        found = []
        for start in range(0, len(pictures), 64):
            queries = torch.stack([self._query(picture) for picture in pictures[start : start + 64]])
            # |a − b|² without the constant |a|²; float32 rounds it, so exact sums compare the nearest few
            rough = self._norms - 2 * queries @ self.pixels.T
            near = rough.topk(min(4, len(self)), largest=False).indices
            exact = (self.pixels[near] - queries[:, None]).double().square().sum(2)
            found += near.gather(1, exact.argmin(1, keepdim=True))[:, 0].tolist()
        return found

    def hits(self, pictures: Sequence[Tensor], expected: Sequence[int]) -> list[bool]:
        """Return for each image whether the expected picture, or an identical one, is nearest."""
        nearest = self.nearest(pictures)
        return [self.same[n] == self.same[w] for n, w in zip(nearest, expected, strict=True)]

    def _query(self, picture: Tensor) -> Tensor:
        if tuple(picture.shape) != self.size:
            raise ValueError(f"pictures must have the shape of the gallery, {self.size}, got {tuple(picture.shape)}")
        return _flat(picture)


def _flat(picture: Tensor) -> Tensor:
    """Return 8-bit values minus 128 as float32. They are integers, so identical pictures are equal."""
    return to_uint8(picture).flatten().float() - 128


class ImageScorer:
    """Scores images against the pictures of packs. `reconstruct` encodes and decodes images."""

    def __init__(
        self, packs: PackFolder, reconstruct: Callable[[Sequence[Tensor]], list[Tensor]],
        names: Sequence[str] = ("emoji64-train", "emoji64-test"),
    ) -> None:  # fmt: skip
        self.pictures = [picture for name in names for picture in packs[name].signals]
        self.captions = [caption for name in names for caption in packs[name].captions]
        self.index = {caption: i for i, caption in reversed(list(enumerate(self.captions)))}
        self.reconstruct = reconstruct

    @cached_property
    def gallery(self) -> Gallery:
        return Gallery(self.pictures)

    def nearest_captions(self, images: Sequence[Tensor]) -> list[str]:
        """Return the caption of the picture nearest to each image."""
        return [self.captions[n] for n in self.gallery.nearest(images)]

    def hits(self, images: Sequence[Tensor], captions: Sequence[str]) -> list[bool]:
        """Return for each image whether the picture with its caption is nearest."""
        return self.gallery.hits(images, [self.index[caption] for caption in captions])

    def ceiling(self, captions: Sequence[str]) -> float:
        """Return the share of pictures that are right after encoding and decoding."""
        return share(self.hits(self.reconstruct([self.pictures[self.index[c]] for c in captions]), captions))


def neighbors(word: str) -> list[str]:
    """Return the word and all words that differ from it in one letter."""
    others = (word[:i] + c + word[i + 1 :] for i in range(len(word)) for c in string.ascii_uppercase if c != word[i])
    return [word, *others]


def read_word(picture: Tensor, word: str, ink: str) -> str:
    """Return the one of `neighbors(word)` whose rendering in the same ink and size is nearest to the picture."""
    candidates = neighbors(word)
    gallery = Gallery([words.render(candidate, ink, picture.shape[-1]) for candidate in candidates])
    return candidates[gallery.nearest([picture])[0]]


class SpeechScorer:
    """Scores sounds at `sample_rate` Hz with a spoken-word classifier trained on the real training clips."""

    def __init__(self, packs: PackFolder, sample_rate: int) -> None:
        self.packs, self.sample_rate = packs, sample_rate

    @cached_property
    def classifier(self) -> SpokenWordClassifier:
        """Classifier from the cache, or newly trained."""
        pack = self.packs["spoken_digits-train"]
        clips = [resample(item.signal, item.sample_rate) for item in pack.items]
        with training_bar("training speech classifier") as show:
            return spoken_words.trained(clips, pack.captions, progress=show)

    def classify(self, sounds: Sequence[Tensor], sample_rate: int | None = None) -> list[str]:
        """Return the word of each sound. The default sample rate is that of the model."""
        return self.classifier.classify([resample(sound, sample_rate or self.sample_rate) for sound in sounds])

    def accuracy(self, sounds: Sequence[Tensor], words: Sequence[str], sample_rate: int | None = None) -> float:
        """Return the share of sounds that are recognized as their words."""
        return share([a == b for a, b in zip(self.classify(sounds, sample_rate), words, strict=True)])

    @cached_property
    def real_accuracy(self) -> float:
        """Accuracy of the classifier on real test clips."""
        pack = self.packs["spoken_digits-test"]
        return self.accuracy(pack.signals, pack.captions, pack.items[0].sample_rate)
