"""Session with the model under evaluation: answers in batches, scores, and exhibits for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenloom import models, progress
from tokenloom.codecs import media
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.data.sources.source import at_least
from tokenloom.models.sampling import DEFAULTS, check

from .packs import PackFolder, draw
from .records import ExhibitPart, PromptExhibit
from .scoring import ImageScorer, SpeechScorer

BATCH = 32
"""Number of prompts of a batch."""
TEXT_SAMPLING = {"temperature": 0}
"""Text is compared letter by letter and therefore not sampled."""
SEED_STRIDE = 1_000_003


class Answer(NamedTuple):
    """Generated signal or text, and its number of sampled tokens."""

    result: Any
    tokens: int


class OmniSession:
    """Session with a model under evaluation; see `evaluate` for the arguments. `limit` is its `items`."""

    def __init__(
        self,
        model: str,
        packs: PackFolder,
        out: Path,
        *,
        limit: int | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        sampling: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.packs, self.out, self.limit, self.seed = str(model), packs, out, limit, seed
        self.omni = models.load(model, device=device)
        self.sampling = {key: value for key, value in (sampling or {}).items() if value is not None}
        if unknown := sorted(set(self.sampling) - set(DEFAULTS)):
            raise ValueError(f"sampling must be among {', '.join(DEFAULTS)}, got {unknown[0]!r}")
        check(DEFAULTS | self.sampling)
        at_least("seed", seed, 0)
        self.exhibits: list[PromptExhibit] = []

    def ask(self, prompts: Sequence[Sequence[Any]], to: str, label: str = "") -> list[Answer]:
        """Return one answer to each prompt in the modality or channel `to`. A label shows a progress bar."""
        kind = self.omni.vocabulary.channel(to).modality
        sampling = {**self.sampling, **TEXT_SAMPLING} if kind is Modality.TEXT else self.sampling
        starts = range(0, len(prompts), BATCH)
        answers: list[Answer] = []
        for start in track(starts, label, "batches") if label else starts:
            some = prompts[start : start + BATCH]
            results = self.omni.generate_batch(some, to, seed=self.seed * SEED_STRIDE + start, **sampling)
            results = [result.cpu() if isinstance(result, Tensor) else result for result in results]
            answers += map(Answer, results, self.omni.statistics.tokens)
        return answers

    def draw(self, total: int, limit: int | None = None) -> list[int]:
        """Draw at most `limit` (default: that of the session) different numbers below `total`, ascending."""
        return draw(total, self.limit if limit is None else limit, self.seed)

    def at_most(self, count: int) -> int:
        """Return a number of trials, at most the session's limit."""
        return min(self.limit or count, count)

    # -- signals --------------------------------------------------------------------------------

    def signal(self, item: Item) -> Tensor:
        """Return the signal of an item. Sounds get the sample rate and channels of the model."""
        if item.modality is not Modality.AUDIO:
            return item.signal
        spec = self.omni.vocabulary.channel(Modality.AUDIO).codec.spec
        return media.convert(item.signal, item.sample_rate, spec.sample_rate, spec.channels)

    def reconstruct(self, signals: Sequence[Tensor], to: str = "image") -> list[Tensor]:
        """Encode and decode each signal with the codec."""
        channel = self.omni.vocabulary.channel(to)
        out = []
        for signal in track(signals, "reconstructing", "items"):
            codes = channel.encode(signal[None])
            size = tuple(codes.sizes[0].tolist())
            out.append(channel.codec.decode(codes)[(0, slice(None), *map(slice, size))].cpu())
        return out

    @property
    def image_size(self) -> int:
        """Side of generated images; 64 if the model has no fixed size."""
        name = self.omni.vocabulary.channel(Modality.IMAGE).name
        return self.omni.sizes.get(name, (64,))[0]

    # -- scores ---------------------------------------------------------------------------------

    @cached_property
    def images(self) -> ImageScorer:
        return ImageScorer(self.packs, self.reconstruct)

    @cached_property
    def styled_images(self) -> ImageScorer:
        """Scorer among the emoji of all styles."""
        names = ("emoji64-train", "emoji64-test", "styles64-train", "styles64-test")
        return ImageScorer(self.packs, self.reconstruct, names)

    @cached_property
    def speech(self) -> SpeechScorer:
        return SpeechScorer(self.packs, self.omni.sample_rate)

    @cached_property
    def speech_ceiling(self) -> float:
        """Accuracy of the classifier on test clips that the codec encoded and decoded."""
        pack = self.packs["spoken_digits-test"]
        rows = self.draw(len(pack))
        decoded = self.reconstruct([self.signal(pack.items[i]) for i in rows], "audio")
        return self.speech.accuracy(decoded, [pack.captions[i] for i in rows])

    # -- exhibits -------------------------------------------------------------------------------

    def show(
        self, title: str, prompt: Sequence[Any], result: Any, right: bool | None = None, truth: Tensor | None = None
    ) -> None:
        """Keep a prompt and its answer for the report, with `truth` and whether the answer is `right`, if known."""
        name = f"omni-{len(self.exhibits):03d}"
        (self.out / "exhibits").mkdir(parents=True, exist_ok=True)
        parts = [self._part(segment, f"{name}-{i}") for i, segment in enumerate(prompt)]
        kept = self._part(result, f"{name}-result")
        real = None if truth is None else self._part(truth, f"{name}-truth")
        self.exhibits.append(PromptExhibit(title, parts, kept, real, right))

    def _part(self, segment: str | Tensor, name: str) -> ExhibitPart:
        if isinstance(segment, str):
            return ExhibitPart(text=segment)
        if segment.ndim == 3:
            path = f"exhibits/{name}.png"
            media.write(segment, self.out / path)
            return ExhibitPart(picture=path)
        path = f"exhibits/{name}.flac"
        media.write(segment, self.out / path, sample_rate=self.omni.sample_rate)
        return ExhibitPart(sound=path)


def track(items: Sequence[Any], label: str, unit: str) -> Iterator[Any]:
    """Yield the items, with a progress bar."""
    with progress.bar(label, len(items), unit) as advance:
        for item in items:
            yield item
            advance()
