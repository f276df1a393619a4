"""How usual the texts of a prompt are for a model, in bits per token under its own transformer.

A model draws something for every prompt. A text that costs more bits per token than any text of the training prompts is
far from what the model has learned, and the result will hardly follow it.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tokenloom.codecs import Modality

from ..transformer import Transformer
from ..vocabulary import Vocabulary
from . import scoring


class UnfamiliarPromptWarning(UserWarning):
    """A prompt is far from the training data of the model."""


@dataclass(frozen=True)
class Familiarity:
    """Bits per token of the texts of training prompts: their median, and the most that one of them takes."""

    median: float
    most: float

    @classmethod
    def measure(cls, transformer: Transformer, vocabulary: Vocabulary, prompts: Sequence[Tensor]) -> Familiarity | None:
        """Measure ids of training prompts. Returns None if no prompt has a text."""
        found = [bits for ids in prompts if (bits := bits_per_token(transformer, vocabulary, ids)) is not None]
        return cls(round(statistics.median(found), 3), round(max(found), 3)) if found else None

    @classmethod
    def parse(cls, given: Any) -> Familiarity | None:
        """Return the values of a config. Raises ValueError for other values than two numbers."""
        if given is None:
            return None
        values = list(given.values()) if isinstance(given, Mapping) and set(given) == {"median", "most"} else []
        if not values or not all(isinstance(v, int | float) and math.isfinite(v) and v > 0 for v in values):
            raise ValueError(f"omni.familiarity must hold the numbers median and most, got {given!r:.80}")
        return cls(**given)

    def warn(self, transformer: Transformer, vocabulary: Vocabulary, ids: Tensor, text: str) -> None:
        """Warn if the texts of a prompt take more bits per token than those of all training prompts."""
        bits = bits_per_token(transformer, vocabulary, ids)
        if bits is not None and bits > self.most:
            shown = text if len(text) <= 60 else f"{text[:60]}…"
            warnings.warn(
                f"the prompt {shown!r} is far from the training data, so the result will hardly follow it: "
                f"{bits:.1f} bits per token, prompts in training take {self.median:.1f} in the median and at most "
                f"{self.most:.1f}",
                UnfamiliarPromptWarning, stacklevel=2,
            )  # fmt: skip


def bits_per_token(transformer: Transformer, vocabulary: Vocabulary, ids: Tensor) -> float | None:
    """Return the bits per token of the texts of a prompt, each given what precedes it; None without a text."""
    at, pairs = 1, []
    for name, codes in vocabulary.parse(ids):
        end = at + sum(map(len, vocabulary.segment(name, codes)))
        if vocabulary.channels[name].modality is Modality.TEXT:
            pairs.append((ids[:at], ids[at:end]))
        at = end
    if not pairs:
        return None
    return sum(scoring.bits(transformer, vocabulary, pairs)) / sum(len(text) for _, text in pairs)
