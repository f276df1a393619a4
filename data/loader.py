"""Training batches. Their order and augmentation are a pure function of (seed, step, slot)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenloom.codecs.media import notices
from tokenloom.codecs.media.notices import Notice

from .augment import NO_AUGMENT, AudioCrop, Augment, ImageCrop
from .sources.source import BrokenItem, Source, at_least, warn_broken

CACHE_BYTES = 2**28
"""Memory of each worker for decoded items. Items beyond it are decoded every time."""

_ORDER, _AUGMENT = 0, 1  # separate random streams of one seed


class Crops:
    """An iterable of (step, batch) over the steps start_step to steps − 1 of a run.

    After an iteration, `skipped` is the number of broken items. The next readable item replaces a broken one.
    """

    def __init__(self, batches: _Batches, start_step: int, steps: int, workers: int, strict: bool) -> None:
        self.batches, self.strict = batches, strict
        self.start_step, self.steps, self.workers = start_step, steps, workers
        self.skipped = 0

    def __len__(self) -> int:
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        broken: dict[int, str] = {}
        counted: set[int] = set()
        tally = notices.Tally()
        # a fork after OpenMP has run hangs only where the child uses several threads; PyTorch's workers use one
        loader = DataLoader(
            self.batches, batch_size=None, sampler=range(self.start_step, self.steps), num_workers=self.workers,
            collate_fn=_unchanged, generator=torch.Generator(),  # the global one belongs to the training
        )  # fmt: skip
        try:
            for step, batch, problems, found in loader:
                broken.update(problems)
                for i in sorted(found.keys() - counted):  # several workers may have read an item
                    counted.add(i)
                    tally.add(*found[i])
                self.skipped = len(broken)
                if self.strict and problems:
                    raise BrokenItem(next(iter(problems.values())))
                if isinstance(batch, str):
                    raise ValueError(batch)
                # images are sent as bytes: a quarter of the traffic between processes
                yield step, batch.float().div_(255) if batch.dtype == torch.uint8 else batch
        finally:
            warn_broken(self.batches.source.name, list(broken.values()), len(self.batches.source), "replaced")
            tally.warn(self.batches.source.name, len(self.batches.source))


def crops(
    source: Source, *, batch_size: int, size: int, seed: int, start_step: int = 0, steps: int, workers: int = 0,
    sample_rate: int | None = None, channels: int | None = None, augment: Augment = NO_AUGMENT, strict: bool = False,
    rank: int = 0, world_size: int = 1,
) -> Crops:  # fmt: skip
    """Iterate over batches of random crops.

    Slot s of step t is item t · batch_size + s of an endless pass through the source, shuffled anew every epoch. Its
    augmentation is drawn from a generator of (seed, item). The batches therefore do not depend on `workers`,
    `start_step` or `world_size`.

    Args:
        source: Signals of one modality.
        batch_size: Crops per step over all ranks. A rank gets the slots rank, rank + world_size, …
        size: Side of an image in pixels, or samples. Shorter audio is followed by random other items without a gap.
        steps: Number of steps of the whole run.
        sample_rate: Hz of audio; None for images.
        strict: Raise BrokenItem for a broken item. Otherwise the next readable one replaces it, with a warning.

    Returns:
        Iterable of (step, batch). Images are float32 (batch, 3, size, size) in [0, 1], multiples of 1/255. Audio is
        float32 (batch, channels, size) in [-1, 1].

    Raises:
        ValueError: A value is out of range, or an item has another modality.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1), ("size", size, 1), ("seed", seed, 0), ("start_step", start_step, 0),
        ("steps", steps, start_step), ("workers", workers, 0), ("world_size", world_size, 1), ("rank", rank, 0),
    ):  # fmt: skip
        at_least(name, value, least)
    if batch_size % world_size or rank >= world_size:
        raise ValueError(
            f"batch_size must be a multiple of the {world_size} processes, got {batch_size} (this is process {rank})"
        )
    if len(source) == 0:
        raise ValueError(f"{source.name} has no items to train on")
    channels = 1 if channels is None else channels
    crop = ImageCrop(size, augment) if sample_rate is None else AudioCrop(size, augment, sample_rate, channels)
    slots = range(rank, batch_size, world_size)
    return Crops(_Batches(source, crop, seed, batch_size, slots), start_step, steps, workers, strict)


class _Batches(Dataset):
    """Step → (step, batch or error message, broken items, keys and notices of items)."""

    def __init__(self, source: Source, crop: ImageCrop | AudioCrop, seed: int, batch_size: int, slots: range) -> None:
        self.source, self.crop, self.seed, self.batch_size, self.slots = source, crop, seed, batch_size, slots
        self.order: tuple[int, np.ndarray] | None = None
        self.cache: dict[int, Tensor | str] = {}
        self.room = CACHE_BYTES
        self.told: dict[int, tuple[str, list[Notice]]] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "order": None, "cache": {}, "room": CACHE_BYTES, "told": {}}

    def __getitem__(self, step: int) -> tuple[int, Tensor | str, dict[int, str], dict[int, tuple[str, list[Notice]]]]:
        problems: dict[int, str] = {}
        self.told = {}
        try:
            batch = torch.stack([self._slot(step * self.batch_size + slot, problems) for slot in self.slots])
        except ValueError as error:  # sent as text, because an exception from a worker carries its traceback
            return step, str(error), problems, self.told
        return step, batch, problems, self.told

    def _slot(self, g: int, problems: dict[int, str]) -> Tensor:
        epoch, position = divmod(g, len(self.source))
        if self.order is None or self.order[0] != epoch:
            self.order = epoch, _generator(self.seed, _ORDER, epoch).permutation(len(self.source))
        rng = _generator(self.seed, _AUGMENT, g)
        first = self._readable(int(self.order[1][position]), problems)
        return self.crop(first, lambda: self._readable(int(rng.integers(len(self.source))), problems), rng)

    def _readable(self, i: int, problems: dict[int, str]) -> Tensor:
        """Return the signal of item i, or of the first readable one after it."""
        for j in range(i, i + len(self.source)):
            signal = self._signal(j % len(self.source))
            if isinstance(signal, Tensor):
                return signal
            problems[j % len(self.source)] = signal
        raise ValueError(f"{self.source.name}: none of its {len(self.source)} items can be read, first: {problems[i]}")

    def _signal(self, i: int) -> Tensor | str:
        """Return the prepared signal of item i, or the reason why it cannot be read."""
        if i in self.cache:
            return self.cache[i]
        try:
            with notices.collect() as found:
                item = self.source[i]
                signal = self.crop.prepare(item)
            if told := [*item.notices, *found]:
                self.told[i] = item.key, told
        except BrokenItem as problem:
            signal = str(problem)
        size = signal.numel() * signal.element_size() if isinstance(signal, Tensor) else len(signal)
        if size <= self.room:
            self.cache[i] = signal
            self.room -= size
        return signal


def _generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream, counter])))


def _unchanged(batch: object) -> object:
    return batch
