"""Scores of generated images and speech.

An image is right if its nearest neighbor among all images of both emoji packs, by pixel MSE, is the wanted one or an
identical one. Speech is right if a classifier of spoken words recognizes the wanted word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from torch import Tensor

from ..classifiers import spoken_words
from ..classifiers.fitting import training_bar
from ..classifiers.spoken_words import SpokenWordClassifier, resample
from .packs import PackFolder
from .records import share
from .retrieval import Gallery


class ImageScorer:
    """Scores images against the pictures of both emoji packs; `reconstruct` sends images through the codec alone."""

    def __init__(self, packs: PackFolder, reconstruct: Callable[[Sequence[Tensor]], list[Tensor]]) -> None:
        train, test = packs["emoji64-train"], packs["emoji64-test"]
        self.pictures, self.captions = train.signals + test.signals, train.captions + test.captions
        self.index = {caption: i for i, caption in reversed(list(enumerate(self.captions)))}
        self.reconstruct = reconstruct

    @cached_property
    def gallery(self) -> Gallery:
        """All pictures."""
        return Gallery(self.pictures)

    def nearest_captions(self, images: Sequence[Tensor]) -> list[str]:
        """Return the caption of the picture nearest to each image."""
        return [self.captions[n] for n in self.gallery.nearest(images)]

    def hits(self, images: Sequence[Tensor], captions: Sequence[str]) -> list[bool]:
        """Return whether each image is nearest to the picture with the wanted caption."""
        return self.gallery.hits(images, [self.index[caption] for caption in captions])

    def ceiling(self, captions: Sequence[str]) -> float:
        """Return the share of these pictures that is right after the codec alone."""
        return share(self.hits(self.reconstruct([self.pictures[self.index[c]] for c in captions]), captions))


class SpeechScorer:
    """Scores sounds at `sample_rate` Hz with a spoken-word classifier trained on the real training clips."""

    def __init__(self, packs: PackFolder, sample_rate: int) -> None:
        self.packs, self.sample_rate = packs, sample_rate

    @cached_property
    def classifier(self) -> SpokenWordClassifier:
        """From the cache, or newly trained."""
        pack = self.packs["spoken_digits-train"]
        clips = [resample(item.signal, item.sample_rate) for item in pack.items]
        with training_bar("training speech classifier") as show:
            return spoken_words.trained(clips, pack.captions, progress=show)

    def classify(self, sounds: Sequence[Tensor], sample_rate: int | None = None) -> list[str]:
        """Return the word recognized in each sound, at the model's sample rate unless another is given."""
        return self.classifier.classify([resample(sound, sample_rate or self.sample_rate) for sound in sounds])

    def accuracy(self, sounds: Sequence[Tensor], words: Sequence[str], sample_rate: int | None = None) -> float:
        """Return the share of sounds in which the given word is recognized."""
        return share([a == b for a, b in zip(self.classify(sounds, sample_rate), words, strict=True)])

    @cached_property
    def real_accuracy(self) -> float:
        """Accuracy on the real test clips."""
        pack = self.packs["spoken_digits-test"]
        return self.accuracy(pack.signals, pack.captions, pack.items[0].sample_rate)
