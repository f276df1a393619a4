"""Measurement of every variant at one setting of the codec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs import rate
from tokenloom.codecs.types import Codes
from tokenloom.metrics.errors import Unmeasurable
from tokenloom.metrics.tokens import same_share
from tokenloom.progress import Bar

from .. import trial
from ..classifiers import realfake
from ..classifiers.realfake import ClassifierAccuracy
from ..metric import ItemValues
from . import variants
from .controls import CONTROLS, ControlStrength
from .distance import compare_draws, distance
from .measures import cut_patches
from .records import ControlRecord, DistanceRecord, VariantRecord
from .references import ReferenceItem, References, SignalMeasurement
from .setup import DecoderSetup
from .variants import PLAIN

BATCH, SAMPLES = 32, 2**19
"""Largest numbers of items, and of pixels or samples, of a batch."""
FITTED = 64
"""Largest number of training items to fit the controls on."""
TRAINING_WORK = 2000
"""Work of training one real-or-decoded classifier, in decoder passes of one item."""


def total_work(setup: DecoderSetup, references: References) -> int:
    """Return the work of all settings, in decoder passes of one item."""
    passes = (len(references.test) + len(references.train)) * (sum(setup.steps) + 1)
    trainings = 1 + len(setup.steps) + len(CONTROLS) if references.train else 0
    return len(setup.settings) * (passes + trainings * TRAINING_WORK)


class SettingMeasurement:
    """Measures every variant at one setting."""

    def __init__(self, setup: DecoderSetup, references: References, setting: Any, bar: Bar) -> None:
        self.setup, self.references, self.setting, self.bar = setup, references, setting, bar
        self.strengths: dict[str, ControlStrength] = {}
        self.tokens, self.rate = ItemValues(), ItemValues()

    def run(self) -> tuple[list[VariantRecord], list[ControlRecord]]:
        """Return the records of the variants and of the controls."""
        train, test = self.references.train, self.references.test
        if train:
            self._show("fitting controls")
            signals = [item.signal for item in train[:FITTED]]
            self.strengths = variants.fit_controls(self.setup.codec, signals, self.setting, self.setup.seed)
        self._show("decoding")
        of_train = self._decode(train, is_test=False)
        of_test = self._decode(test, is_test=True)
        records, draws = [], {}
        for name, measurements in of_test.items():
            record, draws[name] = self._record(name, measurements, of_test[PLAIN])
            if train:
                self._show(f"classifying {name}")
                record.accuracy = self._accuracy(of_train[name], measurements)
                self.bar(TRAINING_WORK)
            records.append(record)
        for record in records:
            compare_draws(record, draws)
        return records, [
            ControlRecord(**asdict(strength), setting=self.setting, control=name)
            for name, strength in self.strengths.items()
        ]

    def _show(self, text: str) -> None:
        self.bar(0, self.setup.label(self.setting) + text)

    def _decode(self, items: list[ReferenceItem], *, is_test: bool) -> dict[str, list[SignalMeasurement]]:
        """Return variant → measurements of the items, in order. Training items have patches only."""
        setup, found = self.setup, {}
        for rows in batches([tuple(item.signal.shape) for item in items]):
            codes = setup.codec.encode(torch.stack([items[i].signal for i in rows]), self.setting)
            decoded = variants.decode(setup.decoder, codes, steps=setup.steps, strengths=self.strengths,
                                      seed=setup.seed, first=rows[0])  # fmt: skip
            for name, signals in decoded.items():
                again = setup.codec.encode(signals, self.setting) if is_test and name not in self.strengths else None
                measurements = found.setdefault(name, [SignalMeasurement()] * len(items))
                for place, (i, x) in enumerate(zip(rows, signals, strict=True)):
                    measurements[i] = self._measurement(items[i], x, is_test)
                    measurements[i].same = None if again is None else same_share(codes[place], again[place])
            if is_test:
                self._count(codes)
            self.bar(len(rows) * (sum(setup.steps) + 1))
        return found

    def _count(self, codes: Codes) -> None:
        """Add the tokens and the nominal rate of each item."""
        codec = self.setup.codec
        pairs = zip(rate.tokens(codec.spec, codes), rate.nominal(codec.spec, codes), strict=True)
        for i, (tokens, bits) in enumerate(pairs):
            self.tokens.add(float(tokens))
            self.rate.add(trial.in_unit(float(bits), codes[i], codec))

    def _measurement(self, item: ReferenceItem, x: Tensor, is_test: bool) -> SignalMeasurement:
        measures = self.setup.measures
        patches = cut_patches(measures, x, item.corners)
        if not is_test:
            return SignalMeasurement(patches=patches)
        return SignalMeasurement(measures.distortion(item.signal, x), self.references.features(self.setup, x), patches)

    def _record(
        self, name: str, measurements: list[SignalMeasurement], plain: list[SignalMeasurement]
    ) -> tuple[VariantRecord, dict[str, Tensor]]:
        """Return the record of a variant, and feature space → bootstrap draws of its distance."""
        steps = next((n for n in self.setup.steps if variants.diffusion(n) == name), None)
        distances, draws = self._distances(measurements)
        same = [m.same for m in measurements if m.same is not None]
        differences = (a.distortion["psnr"] - b.distortion["psnr"] for a, b in zip(measurements, plain, strict=True))
        record = VariantRecord(
            setting=self.setting,
            tokens=self.tokens.summary().mean,
            rate=self.rate.summary().mean,
            variant=name,
            steps=steps,
            sampler=None if steps is None else variants.sampler(steps),
            n=len(measurements),
            distortion={
                key: ItemValues(m.distortion[key] for m in measurements).summary() for key in plain[0].distortion
            },
            against_plain=ItemValues(differences).summary(),  # without a value if both are infinite
            kid=distances,
            accuracy=None,
            same=ItemValues(same).summary() if same else None,
        )
        return record, draws

    def _distances(self, measurements: list[SignalMeasurement]) -> tuple[dict[str, DistanceRecord], dict[str, Tensor]]:
        records, draws = {}, {}
        for space in self.references.spaces(self.setup):
            real = [item.features.get(space) for item in self.references.test]
            try:
                records[space], draws[space] = distance(real, [m.features.get(space) for m in measurements])
            except Unmeasurable as reason:
                self.references.absent[f"KID in {space}"] = str(reason)
        return records, draws

    def _accuracy(
        self, of_train: list[SignalMeasurement], of_test: list[SignalMeasurement]
    ) -> ClassifierAccuracy | None:
        """Return the accuracy of the real-or-decoded classifier on a variant."""
        groups = (self.references.train, of_train, self.references.test, of_test)
        try:
            return realfake.accuracy(*([m.patches for m in group] for group in groups), seed=self.setup.seed)
        except Unmeasurable as reason:
            self.references.absent["real or decoded"] = str(reason)
            return None


def batches(shapes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Yield batches of item numbers of equal shape, with at most BATCH items and SAMPLES samples."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(i)
    for shape, rows in groups.items():
        size = max(1, min(BATCH, SAMPLES // torch.Size(shape[1:]).numel()))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]
