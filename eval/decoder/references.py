"""Real items of an evaluation: test items, training items, and the label classifier of the training data."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenloom import progress
from tokenloom.data import Item, Source
from tokenloom.metrics import distribution
from tokenloom.metrics.errors import Unmeasurable

from ..classifiers import labels, realfake
from ..classifiers.fitting import training_bar
from ..classifiers.labels import LabelFeatures
from ..selection import Selection
from . import controls, speed
from .distance import distance
from .measures import cut_patches, patch_corners, signal
from .records import DistanceRecord
from .setup import DecoderSetup
from .variants import FLOW_STEPS, SEED_STRIDE

PATCHES = 32
"""Largest number of patches of an item."""
NEEDS_TRAINING = "needs real items that the test data lacks: give training={name: tar, path: train.tar}"


@dataclass
class SignalMeasurement:
    """Distortions by name, features (d,) by space, patches, and the share of codes that re-encoding recovers."""

    distortion: dict[str, float] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    patches: Tensor = field(default_factory=lambda: torch.zeros(0))
    same: float | None = None


@dataclass
class ReferenceItem(SignalMeasurement):
    """Real item: its signal at the codec's sample rate and channels, the corners of its patches, its measurement."""

    key: str = ""
    caption: str = ""
    signal: Tensor = field(default_factory=lambda: torch.zeros(0))
    corners: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass
class References:
    """Real items of both splits. `absent` maps missing measurements to reasons."""

    test: list[ReferenceItem] = field(default_factory=list)
    train: list[ReferenceItem] = field(default_factory=list)
    labels: LabelFeatures | None = None
    absent: dict[str, str] = field(default_factory=dict)

    def label_accuracy(self) -> float | None:
        """Return the accuracy of the label classifier on the test items."""
        if not self.labels:
            return None
        return self.labels.accuracy([item.signal for item in self.test], [item.caption for item in self.test])

    def features(self, setup: DecoderSetup, x: Tensor) -> dict[str, Tensor]:
        """Return space → features (d,) of a signal. Spaces that need a larger signal are left out."""
        spaces = {setup.measures.space: setup.measures.features}
        if self.labels:
            spaces[labels.SPACE] = self.labels.features
        values = {}
        for space, features in spaces.items():
            with suppress(Unmeasurable):  # records have the number of items with features
                values[space] = features(x)
        return values

    def spaces(self, setup: DecoderSetup) -> list[str]:
        """Return the feature spaces of the distances."""
        return [*([labels.SPACE] if self.labels else []), setup.measures.space]

    def floor(self, setup: DecoderSetup) -> dict[str, DistanceRecord]:
        """Return space → KID between real training items and real test items."""
        found = {}
        for space in self.spaces(setup) if self.train else ():
            try:
                test, train = ([item.features.get(space) for item in some] for some in (self.test, self.train))
                found[space] = distance(test, train, paired=False)[0]
            except Unmeasurable as reason:
                self.absent[f"floor in {space}"] = str(reason)
        return found

    def definitions(self, setup: DecoderSetup) -> dict[str, str]:
        """Return the definitions for the report."""
        return {
            "variants": "all from the same codes, rounded as in a file; diffusion N: the decoder in N steps, with its "
            f"shortcut sampler for fewer than {FLOW_STEPS}, else with Euler's method along its flow",
            "controls": controls.DEFINITION,
            "KID": distribution.DISTANCE + "; 95 % interval: bootstrap over items",
            **({"labels": self.labels.definition} if self.labels else {}),
            **setup.measures.definitions,
            "real or decoded": realfake.DEFINITION,
            "codes back": "share of codes that encoding the decoded signal recovers, mean over items",
            "seconds": f"median of {speed.REPEATS} runs after a warm-up, one item at a time, "
            f"{torch.get_num_threads()} threads",
        }


def read(
    setup: DecoderSetup, source: Source, training: Source | None, items: int | None, train_items: int, strict: bool
) -> References:
    """Read the real items and train the label classifier. Raises ValueError if a split has fewer than 2 items."""
    references = References()
    test = _draw(setup, source, items, strict)
    if training is None:
        for name in ("controls", "real or decoded", "floor", f"KID in {labels.SPACE}"):
            references.absent[name] = NEEDS_TRAINING
    else:
        references.train = _read(setup, _draw(setup, training, train_items, strict), "reading training data")
        try:
            captioned = _draw(setup, training, labels.MAX_ITEMS, strict)
            with training_bar("training labels") as show:
                references.labels = labels.learn(captioned, setup.codec.spec.sample_rate, progress=show)
        except Unmeasurable as reason:
            references.absent[f"KID in {labels.SPACE}"] = str(reason)
    references.test = _read(setup, test, "reading test data")
    for name, some in (("data", references.test), ("training", references.train if training else None)):
        if some is not None and len(some) < 2:
            raise ValueError(
                f"{name} must have at least 2 {setup.codec.spec.modality} items for {setup.name}, got {len(some)}"
            )
    for item in (*references.test, *references.train):
        item.features = references.features(setup, item.signal)
    return references


def _draw(setup: DecoderSetup, source: Source, count: int | None, strict: bool) -> Selection:
    return Selection(source, setup.codec.spec.modality, count, setup.seed, strict)


def _read(setup: DecoderSetup, items: Selection, text: str) -> list[ReferenceItem]:
    references = []
    with progress.bar(text, len(items), "items") as advance:
        for number, item in enumerate(items):
            references.append(_reference(setup, item, number))
            advance()
    return references


def _reference(setup: DecoderSetup, item: Item, number: int) -> ReferenceItem:
    x = signal(item, setup.codec)
    corners = patch_corners(setup.measures, x, PATCHES, setup.seed * SEED_STRIDE + number)
    patches = cut_patches(setup.measures, x, corners)
    return ReferenceItem(key=item.key, caption=item.caption, signal=x, corners=corners, patches=patches)
