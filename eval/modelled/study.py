"""The modelled rate: what codes cost under a small transformer that learned from the codes of other items.

It says how learnable codes are, which nominal bits do not. This is what `compare` and `evaluate` do about it:
who is learned from, who is evaluated, and that no signal is both. The transformer itself is in learner.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenloom.data import BrokenItem, Item, Source
from tokenloom.data.sources.source import at_least
from tokenloom.data.sources.subset import Subset

from ..compare.entries import Contestant
from ..compare.figures import Figures, Outcome, one_line
from ..trial import Trial, to_codec
from .learner import CHECKS, HELD, LEARNING_RATE, NETWORK, PATTERN, STEP, Advance, Layout, learn, steps_of


@dataclass(frozen=True)
class Modelled:
    """That a comparison is to measure the modelled rate, and how.

    training  what is learned from; None: what is not evaluated of the data
    tokens    seen in the training of each codec at each of its settings
    strict    refuse a broken training item instead of counting it
    """

    training: Source | None = None
    tokens: int = 2**20
    strict: bool = False

    def __post_init__(self) -> None:
        at_least("budget", self.tokens, 1)

    def study(self, source: Source, items: int | None, seed: int) -> tuple[Source, Study]:
        """The data of a comparison → what of it is to be evaluated, and the study that goes with it."""
        if self.training is not None:
            return source, Study(self, self.training, seed, f"training data: {self.training.name}")
        count = len(source)
        if items is None and count > 2:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
            fifth = max(1, count // 5)
            how = f"the other {count - fifth} of the data's {count} items, of which {fifth} were drawn to be evaluated"
            return Subset(source, sorted(order[:fifth])), Study(self, Subset(source, sorted(order[fifth:])), seed, how)
        if items is None or items >= count:
            raise ValueError(
                f"modelled: all {count} items of {source.name} are to be evaluated, which leaves none to learn from; "
                "give training={name: …} or fewer items"
            )
        return source, Study(self, source, seed, f"those of the data's {count} items that were not drawn")


class Study:
    """Gathers the codes that a comparison evaluates, then measures each codec and setting on them."""

    def __init__(self, how: Modelled, training: Source, seed: int, where: str) -> None:
        self.how, self.training, self.seed, self.where = how, training, seed, where
        self.evaluated: set[bytes] = set()
        self.trials: dict[Figures, list[Trial]] = {}

    def check(self, contestants: Sequence[Contestant]) -> None:
        """ValueError where the training data hold nothing for a codec."""
        missing = {c.modality: c.label for c in reversed(contestants)}
        for item in self.training.items(self.how.strict):
            missing.pop(item.modality, None)
            if not missing:
                return
        modality, label = next(iter(missing.items()))
        raise ValueError(f"training: {self.training.name} holds no {modality}, which {label} would need")

    def add(self, item: Item, figures: Sequence[Figures], outcomes: Sequence[Outcome]) -> None:
        """Take an item and what the codecs made of it into account."""
        self.evaluated.add(_digest(item))
        for f, outcome in zip(figures, outcomes, strict=True):
            if outcome.trial is not None:  # without the signals, which nothing here needs
                light = dataclasses.replace(outcome.trial, data=b"", decoded=[], output="")
                self.trials.setdefault(f, []).append(light)

    @property
    def total(self) -> int:
        """Tokens to be seen in all."""
        return len(self.trials) * steps_of(self.how.tokens) * STEP

    def measure(self, advance: Advance) -> None:
        """Train once for each codec and setting; give the bits to its figures, or the reason why there are none."""
        for f, trials in self.trials.items():
            name = f.contestant.label if f.setting is None else f"{f.contestant.label} at {f.setting}"
            start = time.perf_counter()
            advance(0, f"{name}: encode")
            rows, facts = self._rows(f)
            advance(0, name)
            try:
                learned = learn(f.contestant.codec.spec, rows, self.how.tokens, self.seed, advance)
            except ValueError as error:
                told = [f"{facts['left_out']} are evaluated too"] if facts["left_out"] else []
                f.model({**facts, "absent": "; ".join([one_line(error), *told, *facts["reasons"]])}, [], [])
                advance(steps_of(self.how.tokens) * STEP, None)
                continue
            bits = [learned.bits(done.codes).item() for done in trials]
            f.model({**facts, **learned.facts, "seconds": round(time.perf_counter() - start, 1)}, trials, bits)

    def _rows(self, f: Figures) -> tuple[list[Tensor], dict[str, Any]]:
        """Rows of training items in random order, no more than the budget has tokens; what was left out, and why."""
        layout, rows, tokens = Layout(f.contestant.codec.spec), [], 0
        facts: dict[str, Any] = {"where": self.where, "left_out": 0, "broken": 0, "failed": 0, "reasons": []}
        order = torch.randperm(len(self.training), generator=torch.Generator().manual_seed(self.seed)).tolist()
        for i in order:
            if tokens >= self.how.tokens and len(rows) > 1:
                break
            try:
                item = self.training[i]
            except BrokenItem:
                if self.how.strict:
                    raise
                facts["broken"] += 1
                continue
            if item.modality is not f.contestant.modality:
                continue
            if _digest(item) in self.evaluated:
                facts["left_out"] += 1
                continue
            try:
                codec = f.contestant.fitted(item)
                rows.append(layout.row(codec.encode(to_codec(item, codec), f.setting), 0))
            except Exception as error:  # whatever a third party's codec raises is its failure on this item
                facts["failed"] += 1
                facts["reasons"] = list(dict.fromkeys([*facts["reasons"], one_line(error)]))[:3]
                continue
            tokens += rows[-1].shape[1]
        return rows, facts

    def definition(self) -> dict[str, str]:
        """What the figure is, in words, for the report."""
        n, tokens = NETWORK, steps_of(self.how.tokens) * STEP
        return {
            "modelled": "cross-entropy of an item's codes, and 32 bits for each number of side information, under a "
            "transformer trained on the codes of other items; the transformer itself is not charged",
            "transformer": f"{n['layers']} layers, width {n['width']}, {n['heads']} heads; an embedding per code, tied "
            "to the output, and one per place; the softmax is over the entries of the quantizer whose turn it is",
            "budget": f"{tokens:,} tokens in {tokens // STEP:,} steps of {STEP:,}, AdamW at {LEARNING_RATE:g} in "
            "bfloat16, evaluated in float32; the same for every codec; each setting is learned separately; "
            f"seed {self.seed}",
            "learned from": f"{self.where}; what is evaluated, or equal to it, is left out. Items are taken in random "
            f"order until they have as many tokens as are to be seen. One in {HELD} is held back, and the state of the "
            f"transformer that codes those best, of {CHECKS} in the training and the one before it, is taken",
            "order": f"{PATTERN}: positions in row-major order, the quantizers of a position one after the other",
            "context": f"{n['context']} tokens; longer items are cut into windows half of that apart, and each scores "
            "what none before it scored: a token is guessed from half a context at least, or from all that precedes it",
            "sizes": "an item's size (pixels, samples) is given and not charged, as in nominal; where the number of "
            "tokens does not follow from it (files, text, flexible lengths), an end token is part of the bits",
        }


def _digest(item: Item) -> bytes:
    """What equal signals share."""
    if isinstance(item.signal, str):
        return hashlib.sha256(item.signal.encode()).digest()
    shape = repr(tuple(item.signal.shape)).encode()
    return hashlib.sha256(shape + item.signal.contiguous().numpy().tobytes()).digest()
