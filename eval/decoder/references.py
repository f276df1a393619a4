"""The real items of an evaluation: test items, training items, and the label classifier trained on the latter."""

from __future__ import annotations

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
"""Patches of an item at most."""
NEEDS_TRAINING = "needs real items that the test data lacks: give training={name: tar, path: train.tar}"


@dataclass
class SignalMeasurement:
    """Distortions by name, features (d,) by space, patches, and the share of codes that re-encoding gives back."""

    distortion: dict[str, float] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    patches: Tensor = field(default_factory=lambda: torch.zeros(0))
    same: float | None = None


@dataclass
class ReferenceItem(SignalMeasurement):
    """A real item: its signal as the codec takes it, the corners of its patches, and its measurement."""

    key: str = ""
    caption: str = ""
    signal: Tensor = field(default_factory=lambda: torch.zeros(0))
    corners: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass
class References:
    """The real items of both splits. `absent` maps what cannot be measured to the reason."""

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
        """Return the features of a signal in every space that it is large enough for."""
        spaces = {setup.measures.space: setup.measures.features}
        if self.labels:
            spaces[labels.SPACE] = self.labels.features
        found = {}
        for space, features in spaces.items():
            try:
                found[space] = features(x)
            except Unmeasurable:  # the record counts the items with features
                continue
        return found

    def spaces(self, setup: DecoderSetup) -> list[str]:
        """Return the feature spaces that distances are measured in."""
        return [*([labels.SPACE] if self.labels else []), setup.measures.space]

    def floor(self, setup: DecoderSetup) -> dict[str, DistanceRecord]:
        """Return the KID between real training and real test items in each space."""
        found = {}
        for space in self.spaces(setup) if self.train else ():
            try:
                test, train = ([item.features.get(space) for item in some] for some in (self.test, self.train))
                found[space] = distance(test, train, paired=False)[0]
            except Unmeasurable as reason:
                self.absent[f"floor in {space}"] = str(reason)
        return found

    def definitions(self, setup: DecoderSetup) -> dict[str, str]:
        """Return how everything is measured, for the report."""
        return {
            "variants": "all from the same codes, rounded as in a file; diffusion N: the decoder with N steps of its "
            f"shortcut sampler, from {FLOW_STEPS} steps on of Euler's method along its flow",
            "controls": controls.DEFINITION,
            "KID": distribution.DISTANCE + "; 95 % interval: bootstrap over items",
            **({"labels": self.labels.definition} if self.labels else {}),
            **setup.measures.definitions,
            "real or decoded": realfake.DEFINITION,
            "codes back": "share of codes that encoding the decoded signal again gives back, mean over items",
            "seconds": f"median of {speed.REPEATS} runs after a warm-up, one item at a time, "
            f"{torch.get_num_threads()} threads",
        }


def read(
    setup: DecoderSetup, source: Source, training: Source | None, items: int | None, train_items: int, strict: bool
) -> References:
    """Read the real items, and train the label classifier. Raises ValueError if a split has fewer than 2 items."""
    found = References()
    test = _draw(setup, source, items, strict)
    if training is None:
        for name in ("controls", "real or decoded", "floor", f"KID in {labels.SPACE}"):
            found.absent[name] = NEEDS_TRAINING
    else:
        found.train = _read(setup, _draw(setup, training, train_items, strict), "reading training data")
        try:
            captioned = _draw(setup, training, labels.MAX_ITEMS, strict)
            with training_bar("training labels") as show:
                found.labels = labels.learn(captioned, setup.codec.spec.sample_rate, progress=show)
        except Unmeasurable as reason:
            found.absent[f"KID in {labels.SPACE}"] = str(reason)
    found.test = _read(setup, test, "reading test data")
    for name, some in (("data", found.test), ("training", found.train if training else None)):
        if some is not None and len(some) < 2:
            raise ValueError(
                f"{name} must have at least 2 {setup.codec.spec.modality} items for {setup.name}, got {len(some)}"
            )
    for item in (*found.test, *found.train):
        item.features = found.features(setup, item.signal)
    return found


def _draw(setup: DecoderSetup, source: Source, count: int | None, strict: bool) -> Selection:
    return Selection(source, {setup.codec.spec.modality}, count, setup.seed, strict)


def _read(setup: DecoderSetup, items: Selection, text: str) -> list[ReferenceItem]:
    found = []
    with progress.bar(text, len(items), "items") as advance:
        for number, item in enumerate(items):
            found.append(_reference(setup, item, number))
            advance()
    return found


def _reference(setup: DecoderSetup, item: Item, number: int) -> ReferenceItem:
    x = signal(item, setup.codec)
    corners = patch_corners(setup.measures, x, PATCHES, setup.seed * SEED_STRIDE + number)
    patches = cut_patches(setup.measures, x, corners)
    return ReferenceItem(key=item.key, caption=item.caption, signal=x, corners=corners, patches=patches)
