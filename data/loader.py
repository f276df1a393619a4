"""Training batches whose order and augmentation are a pure function of (seed, step, slot)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality

from .sources.source import BrokenItem, Item, Source, at_least, warn_broken

CACHE_BYTES = 2**28
"""Decoded items that each worker keeps. Those that no longer fit are decoded every time."""

_ORDER, _AUGMENT = 0, 1  # separate random streams of one seed


@dataclass(frozen=True)
class Augment:
    """How crops vary.

    flip     pictures are mirrored left to right in half of the cases
    scale    pictures are shrunk by a uniform factor from `scale` to 1 before cropping, as far as
             their size allows; 1: never
    pad      pictures smaller than the crop: "reflect" or "edge" (repeats the border's pixels)
    margin   pictures get so many pixels more of that on each side than the crop needs, where they are
             smaller: the crops of pictures of one size shift by up to that much
    gain_db  lowest and highest gain of audio, uniform in dB; a gain is lowered where it would clip
    """

    flip: bool = True
    scale: float = 1.0
    pad: str = "reflect"
    margin: int = 0
    gain_db: tuple[float, float] = (-12.0, 6.0)

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale {self.scale!r} is not within 0 (excluded) to 1")
        if self.pad not in ("reflect", "edge"):
            raise ValueError(f"pad {self.pad!r} is none of reflect, edge")
        at_least("margin", self.margin, 0)
        if len(self.gain_db) != 2 or not self.gain_db[0] <= self.gain_db[1]:
            raise ValueError(f"gain_db {self.gain_db!r} is not a lowest and a highest gain")


NO_AUGMENT = Augment(flip=False, gain_db=(0.0, 0.0))
"""Random crops and nothing else."""


class Crops:
    """An iterable of (step, batch), for the steps start_step … steps − 1 of a run.

    After an iteration, `skipped` is the number of broken items met; their successors took
    their place.
    """

    def __init__(self, batches: _Batches, start_step: int, steps: int, workers: int, strict: bool) -> None:
        self.batches, self.strict = batches, strict
        self.start_step, self.steps, self.workers = start_step, steps, workers
        self.skipped = 0

    def __len__(self) -> int:
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        broken: dict[int, str] = {}
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.start_step, self.steps),
            num_workers=self.workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # else each pass draws from the global one that training uses
        )
        try:
            for step, batch, problems in loader:
                broken.update(problems)
                self.skipped = len(broken)
                if self.strict and problems:
                    raise BrokenItem(next(iter(problems.values())))
                if isinstance(batch, str):
                    raise ValueError(batch)
                # pictures travel as bytes: a quarter of the traffic between processes
                yield step, batch.float().div_(255) if batch.dtype == torch.uint8 else batch
        finally:
            warn_broken(self.batches.source.name, list(broken.values()), len(self.batches.source), "replaced")


def crops(
    source: Source,
    *,
    batch_size: int,
    size: int,
    seed: int,
    start_step: int = 0,
    steps: int,
    workers: int = 0,
    sample_rate: int | None = None,
    channels: int | None = None,
    augment: Augment = NO_AUGMENT,
    strict: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Crops:
    """Batches of random crops for the steps start_step … steps − 1 (`steps` is the run's total).

    Pictures (sample_rate=None): float32 (batch, 3, size, size) in [0, 1], whole 255ths.
    Audio: float32 (batch, channels, size) in [-1, 1] at `sample_rate`; items shorter than `size`
    are followed, without a gap, by random others.

    Slot s of step t is item number g = t · batch_size + s of an endless run through the source
    that is shuffled anew every epoch; its augmentation draws from a generator of (seed, g). So
    neither `workers`, `start_step` nor the number of ranks changes what a step sees. A rank gets
    the slots rank, rank + world_size, …: `batch_size` counts all ranks.

    A broken item is replaced by the next healthy one, and counted (`Crops.skipped`, a warning at
    the end); with `strict` it raises BrokenItem. Items of another modality, and values out of
    range, raise ValueError.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1), ("size", size, 1), ("seed", seed, 0), ("start_step", start_step, 0),
        ("steps", steps, start_step), ("workers", workers, 0), ("world_size", world_size, 1), ("rank", rank, 0),
    ):  # fmt: skip
        at_least(name, value, least)
    if batch_size % world_size or rank >= world_size:
        raise ValueError(f"batch_size {batch_size} does not divide among {world_size} processes (this is {rank})")
    if len(source) == 0:
        raise ValueError(f"{source.name} has no items to train on")
    cut = _ImageCrop(size, augment) if sample_rate is None else _AudioCrop(size, augment, sample_rate, channels or 1)
    slots = range(rank, batch_size, world_size)
    return Crops(_Batches(source, cut, seed, batch_size, slots), start_step, steps, workers, strict)


class _Batches(Dataset):
    """Step → (step, batch or what is wrong, broken items met)."""

    def __init__(self, source: Source, cut: _ImageCrop | _AudioCrop, seed: int, batch_size: int, slots: range) -> None:
        self.source, self.cut, self.seed, self.batch_size, self.slots = source, cut, seed, batch_size, slots
        self.order: tuple[int, np.ndarray] | None = None
        self.cache: dict[int, Tensor | str] = {}
        self.room = CACHE_BYTES

    def __getstate__(self) -> dict:
        return {**self.__dict__, "order": None, "cache": {}, "room": CACHE_BYTES}

    def __getitem__(self, step: int) -> tuple[int, Tensor | str, dict[int, str]]:
        problems: dict[int, str] = {}
        try:
            batch = torch.stack([self._slot(step * self.batch_size + slot, problems) for slot in self.slots])
        except ValueError as error:  # as text: an exception that crosses processes grows a traceback of many lines
            return step, str(error), problems
        return step, batch, problems

    def _slot(self, g: int, problems: dict[int, str]) -> Tensor:
        epoch, position = divmod(g, len(self.source))
        if self.order is None or self.order[0] != epoch:
            self.order = epoch, _generator(self.seed, _ORDER, epoch).permutation(len(self.source))
        rng = _generator(self.seed, _AUGMENT, g)
        first = self._healthy(int(self.order[1][position]), problems)
        return self.cut(first, lambda: self._healthy(int(rng.integers(len(self.source))), problems), rng)

    def _healthy(self, i: int, problems: dict[int, str]) -> Tensor:
        """The signal of item i, or of the first readable one after it."""
        for j in range(i, i + len(self.source)):
            signal = self._signal(j % len(self.source))
            if isinstance(signal, Tensor):
                return signal
            problems[j % len(self.source)] = signal
        raise ValueError(f"{self.source.name}: none of its {len(self.source)} items can be read, first: {problems[i]}")

    def _signal(self, i: int) -> Tensor | str:
        """The prepared signal of item i, or why there is none."""
        if i in self.cache:
            return self.cache[i]
        try:
            signal = self.cut.prepare(self.source[i])
        except BrokenItem as problem:
            signal = str(problem)
        size = signal.numel() * signal.element_size() if isinstance(signal, Tensor) else len(signal)
        if size <= self.room:
            self.cache[i] = signal
            self.room -= size
        return signal


class _ImageCrop:
    """uint8 (3, height, width) → uint8 (3, size, size)."""

    def __init__(self, size: int, augment: Augment) -> None:
        self.size, self.augment = size, augment

    def prepare(self, item: Item) -> Tensor:
        _expect(item, Modality.IMAGE)
        return media.to_uint8(item.signal)

    def __call__(self, image: Tensor, another: object, rng: np.random.Generator) -> Tensor:
        # every draw is made whether needed or not: the n-th number always means the same thing
        factor, down, right, mirror = rng.random(4)
        image = self._padded(image)
        height, width = image.shape[1:]
        factor = 1 - factor * (1 - self.augment.scale)
        side = min(round(self.size / factor), height, width)
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        crop = image[:, top : top + side, left : left + side]
        if side != self.size:
            crop = F.interpolate(crop[None].float(), size=self.size, mode="bicubic", antialias=True)[0]
            crop = crop.round_().clamp_(0, 255).to(torch.uint8)
        return crop.flip(2).contiguous() if self.augment.flip and mirror < 0.5 else crop.contiguous()

    def _padded(self, image: Tensor) -> Tensor:
        missing = [max(self.size + 2 * self.augment.margin - n, 0) for n in image.shape[1:]]
        if not any(missing):
            return image
        pads = [(0, 0)] + [(n // 2, n - n // 2) for n in missing]
        return torch.from_numpy(np.pad(image.numpy(), pads, mode=self.augment.pad))


class _AudioCrop:
    """float32 (channels, samples) → float32 (channels, size)."""

    def __init__(self, size: int, augment: Augment, sample_rate: int, channels: int) -> None:
        self.size, self.augment = size, augment
        self.sample_rate = at_least("sample_rate", sample_rate, 1)
        self.channels = at_least("channels", channels, 1)

    def prepare(self, item: Item) -> Tensor:
        _expect(item, Modality.AUDIO)
        if item.signal.shape[-1] == 0:
            raise BrokenItem(f"{item.key}: holds no samples")
        try:
            return media.convert(item.signal, item.sample_rate, self.sample_rate, self.channels).contiguous()
        except ValueError as error:
            raise BrokenItem(f"{item.key}: {error}") from error

    def __call__(self, signal: Tensor, another: object, rng: np.random.Generator) -> Tensor:
        where, gain = rng.random(2)
        parts, total = [signal], signal.shape[-1]
        while total < self.size:
            parts.append(another())
            total += parts[-1].shape[-1]
        # the crop starts within the item whose turn it is
        start = int(where * min(total - self.size + 1, signal.shape[-1]))
        segment = torch.cat(parts, dim=-1)[:, start : start + self.size]
        low, high = self.augment.gain_db
        factor = 10 ** ((low + gain * (high - low)) / 20)
        peak = float(segment.abs().max())
        return (segment * min(factor, 1 / peak if peak > 0 else factor)).clamp_(-1, 1)


def _expect(item: Item, modality: Modality) -> None:
    if item.modality is not modality:
        raise ValueError(f"{item.key} is {item.modality}, wanted {modality} (data.modality={modality} picks)")


def _generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream, counter])))


def _unchanged(batch: object) -> object:
    return batch
