"""Modelled rate: the bits of codes under a small transformer that is trained on the codes of other items.

It measures how learnable codes are. This module separates the items to learn from from the evaluated ones, and trains
one transformer per codec and setting (see eval/modelled/learner.py).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenloom.data import BrokenItem, Item, Source
from tokenloom.data.sources.source import Subset, at_least
from tokenloom.errors import describe
from tokenloom.progress import Bar

from ..modelled.layout import PATTERN, CodeLayout
from ..modelled.learner import BATCH_TOKENS, CHECKS, HELD, LEARNING_RATE, NETWORK, steps_for, train
from ..selection import contents, digest
from ..trial import Failure, attempt, to_codec
from .entries import CodecEntry
from .journal import unpack
from .measurement import CodecMeasurement, ItemResult
from .records import ModelledRecord

REASONS = 3
"""Largest number of reasons in a record."""


@dataclass(frozen=True)
class ModelledRate:
    """Options of the modelled rate.

    Attributes:
        training: Data to learn from; None: the items of the data that are not evaluated.
        tokens: Training tokens for each codec at each setting.
        strict: Raise an error for a broken training item instead of counting it.
    """

    training: Source | None = None
    tokens: int = 2**20
    strict: bool = False

    def __post_init__(self) -> None:
        at_least("budget", self.tokens, 1)

    def describe(self) -> dict[str, Any]:
        """Return the options as plain values."""
        return {"training": self.training and contents(self.training), "tokens": self.tokens, "strict": self.strict}

    def study(self, source: Source, items: int | None, seed: int) -> tuple[Source, Study]:
        """Return the data to evaluate, and the study that learns from the rest."""
        if self.training is not None:
            return source, Study(self, self.training, seed, f"training data: {self.training.name}")
        count = len(source)
        if items is None and count > 2:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
            fifth = max(1, count // 5)
            where = f"the other {count - fifth} of the data's {count} items, of which {fifth} were drawn for evaluation"
            rest = Subset(source, sorted(order[fifth:]))
            return Subset(source, sorted(order[:fifth])), Study(self, rest, seed, where)
        if items is None or items >= count:
            raise ValueError(
                f"modelled: all {count} items of {source.name} are evaluated, and none is left to learn from; "
                "give training={name: …} or fewer items"
            )
        return source, Study(self, source, seed, f"those of the data's {count} items that were not drawn")


class Study:
    """Collects the codes of a comparison, then measures their bits for each codec and setting.

    `where` describes the origin of the training items.
    """

    def __init__(self, options: ModelledRate, training: Source, seed: int, where: str) -> None:
        self.options, self.training, self.seed, self.where = options, training, seed, where
        self.evaluated: set[str] = set()
        self.trials: dict[CodecMeasurement, list[ItemResult]] = {}

    def check(self, entries: Sequence[CodecEntry]) -> None:
        """Raise ValueError if the training data have no item for a codec."""
        missing = {entry.modality: entry.label for entry in reversed(entries)}
        for item in self.training.items(self.options.strict):
            missing.pop(item.modality, None)
            if not missing:
                return
        modality, label = next(iter(missing.items()))
        raise ValueError(f"training: {self.training.name} has no {modality}, which {label} would need")

    def add(self, measurements: Sequence[CodecMeasurement], results: Sequence[ItemResult]) -> None:
        """Add the results of one item, with their codes."""
        for measurement, result in zip(measurements, results, strict=True):
            self.evaluated.add(result.digest)
            if not result.failed:
                self.trials.setdefault(measurement, []).append(result)

    @property
    def total(self) -> int:
        """Number of tokens of all trainings."""
        return len(self.trials) * steps_for(self.options.tokens) * BATCH_TOKENS

    def measure(self, advance: Bar) -> None:
        """Train once per codec and setting, and add the bits or the reason of a failure to the measurement."""
        for measurement, trials in self.trials.items():
            start = time.perf_counter()
            advance(0, f"{measurement.name}: encode")
            rows, record = self._rows(measurement)
            advance(0, measurement.name)
            try:
                model = train(measurement.entry.codec.spec, rows, self.options.tokens, self.seed, advance)
            except ValueError as error:
                evaluated = [f"{record.left_out} are also evaluated"] if record.left_out else []
                record.absent = "; ".join([describe(error), *evaluated, *record.reasons])
                measurement.add_modelled(record, [], [])
                advance(steps_for(self.options.tokens) * BATCH_TOKENS)
                continue
            bits = [model.bits(unpack(done.codes)).item() for done in trials]
            seconds = round(time.perf_counter() - start, 1)
            record = dataclasses.replace(record, **vars(model.training), seconds=seconds)
            measurement.add_modelled(record, trials, bits)

    def _rows(self, measurement: CodecMeasurement) -> tuple[list[Tensor], ModelledRecord]:
        """Return rows of training items in random order, up to the budget, and a record of the items left out."""
        layout, rows, tokens = CodeLayout(measurement.entry.codec.spec), [], 0
        record = ModelledRecord(where=self.where)
        order = torch.randperm(len(self.training), generator=torch.Generator().manual_seed(self.seed)).tolist()
        for i in order:
            if tokens >= self.options.tokens and len(rows) > 1:
                break
            try:
                item = self.training[i]
            except BrokenItem:
                if self.options.strict:
                    raise
                record.broken += 1
                continue
            if item.modality is not measurement.entry.modality:
                continue
            if digest(item) in self.evaluated:
                record.left_out += 1
                continue
            row = attempt(lambda i=item: _row(layout, measurement, i))
            if isinstance(row, Failure):
                record.failed += 1
                record.reasons = list(dict.fromkeys([*record.reasons, row]))[:REASONS]
                continue
            rows.append(row)
            tokens += rows[-1].shape[1]
        return rows, record

    def definition(self) -> dict[str, str]:
        """Return the definitions for the report."""
        n, steps = NETWORK, steps_for(self.options.tokens)
        return {
            "modelled": "cross-entropy of an item's codes, and 32 bits for each number of side information, under a "
            "transformer trained on the codes of other items; the weights of the transformer cost nothing",
            "transformer": f"{n['layers']} layers, width {n['width']}, {n['heads']} heads; an embedding per code, tied "
            "to the output, and one per position; the softmax is over the entries of the current quantizer",
            "budget": f"{steps * BATCH_TOKENS:,} tokens in {steps:,} steps of {BATCH_TOKENS:,}, AdamW at "
            f"{LEARNING_RATE:g} in bfloat16, evaluated in float32; the same for every codec; each setting has its own "
            f"training; seed {self.seed}",
            "learned from": f"{self.where}; items equal to an evaluated one are left out. Items come in random order, "
            f"up to the tokens of the budget. One in {HELD} is held back for validation. Of {CHECKS} states during the "
            "training and the state before it, the one with the fewest bits on these items is used",
            "order": f"{PATTERN}: positions in row-major order, the quantizers of a position one after the other",
            "context": f"{n['context']} tokens; longer items are cut into windows half a context apart. Each token is "
            "scored once, given at least half a context or all tokens before it",
            "sizes": "an item's size (pixels, samples) is known and free, as in nominal. If it does not determine the "
            "number of tokens (files, text, variable lengths), the bits include an end token",
        }


def _row(layout: CodeLayout, measurement: CodecMeasurement, item: Item) -> Tensor:
    codec = measurement.entry.codec_for(item)
    return layout.row(codec.encode(to_codec(item, codec), measurement.setting), 0)
