"""What every figure of a multimodal model needs: model, packs, gallery and recogniser, and asking in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tokenloom import models
from tokenloom.codecs import media
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.data.sources.source import at_least
from tokenloom.models.sampling import DEFAULTS, check

from ..classifiers import spoken_words as recogniser
from .packs import Packs, draw
from .retrieval import Gallery

ROWS = 32
"""Prompts asked at once."""
EXACT = {"temperature": 0}
"""How text is sampled: an answer that is compared letter by letter is the likeliest one."""


class Answer(NamedTuple):
    """What came of one prompt: a signal or text, and how many tokens were sampled for it."""

    result: Any
    tokens: int


class Bench:
    """A model under test; a context manager that shows what it is at.

    most      trials of a figure at most; None: all
    sampling  of pictures and sound, in place of the model's own
    exhibits  what `show` kept for the report, files under `out`
    """

    def __init__(
        self, model: str, packs: Packs, out: Path, *, most: int | None = None, seed: int = 0,
        sampling: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.packs, self.out, self.most, self.seed = str(model), packs, out, most, seed
        self.omni = models.load(model)
        self.sampling = {key: value for key, value in (sampling or {}).items() if value is not None}
        if unknown := sorted(set(self.sampling) - set(DEFAULTS)):
            raise ValueError(f"sampling takes no {unknown[0]!r}; it takes {', '.join(DEFAULTS)}")
        check(DEFAULTS | self.sampling)
        at_least("seed", seed, 0)
        self.exhibits: list[dict[str, Any]] = []
        self._progress: Any = None

    def __enter__(self) -> Bench:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def track(self, items: Iterable[Any], label: str, total: int | None = None) -> Iterator[Any]:
        """The items, with a bar."""
        items = list(items)
        task = self._progress.add_task(label, total=len(items) if total is None else total) if self._progress else None
        for item in items:
            yield item
            if task is not None:
                self._progress.advance(task)
        if task is not None:
            self._progress.remove_task(task)

    def ask(self, prompts: Sequence[Sequence[Any]], to: str, label: str = "") -> list[Answer]:
        """One answer to each prompt, in batches; trial i has a random stream of its own."""
        kind = self.omni.vocabulary.channel(to).modality
        sampling = {**self.sampling, **EXACT} if kind is Modality.TEXT else self.sampling
        starts = range(0, len(prompts), ROWS)
        answers: list[Answer] = []
        for start in self.track(starts, label) if label else starts:
            some = prompts[start : start + ROWS]
            results = self.omni.generate_batch(some, to, seed=self.seed * 1_000_003 + start, **sampling)
            answers += map(Answer, results, self.omni.statistics.tokens)
        return answers

    # -- signals --------------------------------------------------------------------------------

    def at_rate(self, item: Item) -> Tensor:
        """The signal of an item; a sound at the model's rate."""
        if item.modality is not Modality.AUDIO:
            return item.signal
        channel = self.omni.vocabulary.channel(Modality.AUDIO)
        return media.convert(item.signal, item.sample_rate, channel.codec.spec.sample_rate, channel.codec.spec.channels)

    def at_8khz(self, sound: Tensor) -> Tensor:
        """A sound of the model as the recogniser takes it."""
        return media.convert(sound, self.omni.sample_rate, recogniser.SAMPLE_RATE, 1)

    def reconstructed(self, signals: Sequence[Tensor], to: str = "image") -> list[Tensor]:
        """Each signal through the codec alone."""
        channel = self.omni.vocabulary.channel(to)
        out = []
        for signal in self.track(signals, "the codec alone"):
            codes = channel.encode(signal[None])
            size = tuple(codes.sizes[0].tolist())
            out.append(channel.codec.decode(codes)[(0, slice(None), *map(slice, size))])
        return out

    # -- pictures -------------------------------------------------------------------------------

    @property
    def picture_size(self) -> int:
        """The side of the pictures that the model makes; 64 where it leaves that open."""
        name = self.omni.vocabulary.channel(Modality.IMAGE).name
        return self.omni.sizes.get(name, (64,))[0]

    @cached_property
    def pictures(self) -> list[Tensor]:
        """All pictures of both emoji packs."""
        return self.packs["emoji64-train"].signals + self.packs["emoji64-test"].signals

    @cached_property
    def captions(self) -> list[str]:
        return self.packs["emoji64-train"].captions + self.packs["emoji64-test"].captions

    @cached_property
    def where(self) -> dict[str, int]:
        """Caption → its number among `pictures`."""
        return {caption: i for i, caption in reversed(list(enumerate(self.captions)))}

    @cached_property
    def gallery(self) -> Gallery:
        return Gallery(self.pictures)

    def right(self, answers: Sequence[Answer], wanted: Sequence[str]) -> list[bool]:
        """Whether each generated picture is nearest to the one of the wanted caption."""
        return self.gallery.hits([a.result for a in answers], [self.where[caption] for caption in wanted])

    def ceiling(self, captions: Sequence[str]) -> float:
        """The share of these pictures that retrieval finds when the codec alone stands in for the model."""
        rows = [self.where[caption] for caption in captions]
        hits = self.gallery.hits(self.reconstructed([self.pictures[i] for i in rows]), rows)
        return sum(hits) / len(hits)

    # -- speech ---------------------------------------------------------------------------------

    @cached_property
    def recogniser(self) -> recogniser.SpokenWordClassifier:
        """Trained on the real training clips, or taken from the cache."""
        pack = self.packs["spoken_digits-train"]
        clips = [media.convert(item.signal, item.sample_rate, recogniser.SAMPLE_RATE, 1) for item in pack.items]
        task = self._progress.add_task("recogniser", total=1.0) if self._progress else None
        told = None if task is None else lambda share: self._progress.update(task, completed=round(share, 2))
        network = recogniser.trained(clips, pack.captions, progress=told)
        if task is not None:
            self._progress.remove_task(task)
        return network

    @cached_property
    def recogniser_accuracy(self) -> float:
        """The share of the real test clips that the recogniser hears right."""
        return self._heard([item.signal for item in self.packs["spoken_digits-test"].items], None)

    @cached_property
    def speech_ceiling(self) -> float:
        """The share of the test clips that it hears right through the codec alone, at the channel's setting."""
        pack = self.packs["spoken_digits-test"]
        rows = draw(len(pack), self.most, self.seed)
        return self._heard(self.reconstructed([self.at_rate(pack.items[i]) for i in rows], "audio"), rows)

    def _heard(self, sounds: Sequence[Tensor], rows: Sequence[int] | None) -> float:
        pack = self.packs["spoken_digits-test"]
        said = pack.captions if rows is None else [pack.captions[i] for i in rows]
        rate = pack.items[0].sample_rate if rows is None else self.omni.sample_rate
        heard = self.recogniser.classify([media.convert(sound, rate, recogniser.SAMPLE_RATE, 1) for sound in sounds])
        return sum(a == b for a, b in zip(heard, said, strict=True)) / len(said)

    # -- the report -----------------------------------------------------------------------------

    def show(
        self, title: str, prompt: Sequence[Any], result: Any, right: bool | None = None, truth: Tensor | None = None
    ) -> None:
        """Keep a prompt and what came of it for the report, and whether that is right where it was judged."""
        number = len(self.exhibits)
        (self.out / "exhibits").mkdir(parents=True, exist_ok=True)
        segments = [self._kept(segment, f"omni-{number:03d}-{i}") for i, segment in enumerate(prompt)]
        self.exhibits.append(
            {
                "title": title,
                "prompt": segments,
                "result": self._kept(result, f"omni-{number:03d}-result"),
                "truth": None if truth is None else self._kept(truth, f"omni-{number:03d}-truth"),
                "right": right,
            }
        )

    def _kept(self, segment: Any, stem: str) -> dict[str, str]:
        if isinstance(segment, str):
            return {"text": segment}
        if segment.ndim == 3:
            path = f"exhibits/{stem}.png"
            media.write(segment, self.out / path)
            return {"picture": path}
        path = f"exhibits/{stem}.flac"
        media.write(segment, self.out / path, sample_rate=self.omni.sample_rate)
        return {"sound": path}
