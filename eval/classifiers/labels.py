"""Label features: a feature space for sets of signals, from a classifier of the captions of real training items."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.metrics.errors import Unmeasurable

from . import image_words, spoken_words
from .fitting import Progress
from .image_words import ImageWordClassifier
from .spoken_words import SpokenWordClassifier, resample, spectrogram

MIN_COUNT = 8
"""Smallest number of training captions that contain a label."""
MIN_LABELS = {Modality.IMAGE: 4, Modality.AUDIO: 2}
MAX_ITEMS = 4096
"""Largest number of training items."""
SPACE = "labels"


@dataclass(frozen=True)
class LabelFeatures:
    """A trained label classifier. `prepare` turns a signal into its input; `split` returns the labels of a caption."""

    network: ImageWordClassifier | SpokenWordClassifier
    prepare: Callable[[Tensor], Tensor]
    split: Callable[[str], set[str]]
    labels: list[str]
    definition: str

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the features (d,) of a signal (channels, *axes)."""
        return self.network.embed(self.prepare(x)[None])[0]

    @torch.no_grad()
    def classify(self, x: Tensor) -> str:
        """Return the most likely label of a signal."""
        return self.labels[int(self.network(self.prepare(x)[None])[0].argmax())]

    def accuracy(self, signals: Sequence[Tensor], captions: Sequence[str]) -> float | None:
        """Return the share of signals whose most likely label is in their caption; None if no caption has a label."""
        pairs = [(x, self.split(c)) for x, c in zip(signals, captions, strict=True)]
        known = [(x, names) for x, names in pairs if names & set(self.labels)]
        return sum(self.classify(x) in names for x, names in known) / len(known) if known else None


def learn(
    items: Iterable[Item],
    sample_rate: int | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> LabelFeatures:
    """Train a classifier of the captions of real training items of one modality.

    `sample_rate` (Hz) belongs to the sounds to classify. The default `folder` is the user's cache. Raises Unmeasurable
    if the captions have too few labels.
    """
    modality, captions, inputs = Modality.IMAGE, [], []
    for item in items:  # keep only the inputs of the classifier in memory
        modality = item.modality
        captions.append(item.caption)
        image = modality is Modality.IMAGE
        inputs.append(image_words.center(item.signal) if image else resample(item.signal, item.sample_rate))
    labels = frequent_labels(captions, modality)
    if modality is Modality.IMAGE:
        targets = torch.tensor([[float(label in words(caption)) for label in labels] for caption in captions])
        network = image_words.trained(inputs, targets, labels, folder, progress)
        definition = (
            f"images: the {image_words.WIDTHS[-1]} features before the last layer, means over the whole image, of a "
            f"classifier with {len(image_words.WIDTHS)} convolutions of the {len(labels)} words that occur in "
            f"{MIN_COUNT} or more captions, trained on {len(inputs)} real training images"
        )
        return LabelFeatures(network, lambda x: x, words, labels, definition)
    known = [i for i, caption in enumerate(captions) if caption in labels]
    network = spoken_words.trained([inputs[i] for i in known], [captions[i] for i in known], folder, progress)
    definition = (
        f"sounds: mean and maximum over time of the features before the last layer of a classifier of {len(labels)} "
        f"captions, trained on {len(known)} real training clips; its input is the first 1.7 s after leading silence, "
        f"at {spoken_words.SAMPLE_RATE} Hz, with the level normalized"
    )
    return LabelFeatures(network, lambda x: spectrogram(resample(x, sample_rate)), lambda c: {c}, labels, definition)


def frequent_labels(captions: Sequence[str], modality: Modality) -> list[str]:
    """Return the sorted labels of captions: words for images, whole captions for sounds.

    A label occurs in at least MIN_COUNT captions, but not in all. Raises Unmeasurable for fewer than MIN_LABELS labels.
    """
    split = words if modality is Modality.IMAGE else lambda caption: {caption} - {""}
    counts = Counter(label for caption in captions for label in split(caption))
    found = sorted(label for label, n in counts.items() if MIN_COUNT <= n < len(captions))
    if len(found) < MIN_LABELS[modality]:
        kind = "words" if modality is Modality.IMAGE else "captions"
        raise Unmeasurable(
            f"{len(found)} {kind} occur in {MIN_COUNT} or more of the {len(captions)} training captions; "
            f"a label classifier needs {MIN_LABELS[modality]}"
        )
    return found


def words(caption: str) -> set[str]:
    """Return the words of a caption in lower case."""
    return set(re.findall(r"[^\W\d_]+", caption.lower()))
