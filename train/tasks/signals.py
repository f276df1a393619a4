"""The base of tasks over signals: the split of the data, random crops, and samples of a validation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import data
from tokenloom.codecs import LatentCodec, Modality, media
from tokenloom.codecs.media import notices
from tokenloom.data import Item, Source
from tokenloom.data.augment import Augment
from tokenloom.data.loader import Crops, crops
from tokenloom.data.sources.source import Subset, at_least

from ..job import TrainingJob
from ..run_config import RunConfig

DEFAULT_CROP = {Modality.IMAGE: 128, Modality.AUDIO: 1}
"""Pixels, seconds."""
MAX_CROP = {Modality.IMAGE: 2**12, Modality.AUDIO: 2**24}
"""Pixels of a side, samples."""
HELD_OUT = 16
"""Largest number of items that are held out for validation."""
MAX_SECONDS = 10
"""Longest audio in a validation; the rest of an item is cut off."""


@dataclass
class CropConfig:
    """Size and random variation of crops (see data/augment.py)."""

    size: int | None = None
    scale: float = 1.0
    flip: bool = True
    pad: str = "reflect"
    margin: int = 0
    gain_db: list[float] = field(default_factory=lambda: [-12.0, 6.0])


@dataclass
class SignalConfig(RunConfig):
    """The keys of a task over crops of signals."""

    crop: CropConfig = field(default_factory=CropConfig)


class SignalJob(TrainingJob):
    """A task over random crops of signals. `codec` determines their modality, sample rate and channels."""

    fixed = ("crop",)
    cfg: SignalConfig
    codec: LatentCodec

    def __init__(self, cfg: SignalConfig) -> None:
        super().__init__(cfg)
        self.train_set, self.validation_set = _split(cfg)

    @classmethod
    def check(cls, cfg: SignalConfig) -> None:
        if cfg.crop.size is not None:
            at_least("crop.size", cfg.crop.size, 1)

    @property
    def crop_size(self) -> int:
        """Side in pixels, or samples."""
        return self.cfg.crop.size or DEFAULT_CROP[self.codec.spec.modality] * (self.codec.spec.sample_rate or 1)

    def batches(self, **steps: int) -> Crops:
        return self.crops(batch_size=self.cfg.batch_size, workers=self.cfg.workers, **steps)

    def crops(self, **options: Any) -> Crops:
        """Return batches of the training set; see `loader.crops` for the options."""
        crop, spec = self.cfg.crop, self.codec.spec
        return crops(
            self.train_set, size=self.crop_size, seed=self.cfg.seed, strict=bool(self.cfg.data.get("strict", False)),
            sample_rate=spec.sample_rate, channels=spec.channels if spec.modality is Modality.AUDIO else None,
            augment=Augment(crop.flip, crop.scale, crop.pad, crop.margin, tuple(crop.gain_db)), **options,
        )  # fmt: skip

    def first_crop(self) -> Tensor:
        """Return a batch of one crop. Raises ValueError if modality, sizes or options do not fit the data."""
        modality, item = self.codec.spec.modality, next(self.validation_set.items())
        if item.modality is not modality:
            data = self.cfg.validation or self.cfg.data
            where = f"path {data['path']}" if "path" in data else f"data={data['name']}"
            raise ValueError(
                f"the codec is for {modality}, but {where} holds {item.modality}, such as the item {item.key!r}; "
                f"data.modality={modality} leaves other items out"
            )
        if self.crop_size > MAX_CROP[modality]:
            unit = "pixels" if modality is Modality.IMAGE else "samples"
            raise ValueError(f"crop.size must be at most {MAX_CROP[modality]} {unit}, got {self.crop_size}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training reports broken items
            return next(iter(self.crops(batch_size=1, steps=1)))[1]

    def data_recipe(self) -> dict[str, Any]:
        """Return the properties of the data that a resumed run must share."""
        return {"name": self.cfg.data["name"], "items": len(self.train_set)}


def _split(cfg: RunConfig) -> tuple[Source, Source]:
    """Return the training and the validation set. Without `validation`, the last items of `data` are held out."""
    source = _open(cfg.data, cfg.task)
    if len(source) < 2:
        raise ValueError(f"training needs at least 2 items, {source.name} has {len(source)}")
    if cfg.validation:
        return source, _open(cfg.validation, cfg.task)
    cut = len(source) - max(1, min(HELD_OUT, len(source) // 20))
    return Subset(source, range(cut)), Subset(source, range(cut, len(source)))


def _open(config: dict[str, Any], task: str) -> Source:
    if config.get("name") == "documents":
        raise ValueError(f"data=documents is for task=transformer; task={task} needs one of {', '.join(data.names())}")
    return data.open_source(**{k: v for k, v in config.items() if k != "strict"})


def signal_for(codec: LatentCodec, item: Item) -> Tensor:
    """Return the signal of an item with the sample rate and channels of a codec. Long audio is cut."""
    if codec.spec.modality is Modality.IMAGE:
        return item.signal
    signal = item.signal[:, : MAX_SECONDS * item.sample_rate]
    if signal.shape[1] < item.signal.shape[1]:
        notices.tell("validation", f"longer sounds are cut to {MAX_SECONDS} s")
    return media.convert(signal, item.sample_rate, codec.spec.sample_rate, codec.spec.channels, "validation")


def write_samples(samples: list[dict[str, Tensor]], codec: LatentCodec, folder: Path, step: int) -> None:
    """Write named versions of items: images as one file with a row per name, audio as one file per name."""
    if not samples:
        return
    names, prefix = list(samples[0]), f"{step:07d}"
    if codec.spec.modality is Modality.IMAGE:
        height, width = (min(256, *(one[name].shape[axis] for one in samples for name in names)) for axis in (1, 2))
        rows = [torch.cat([one[name][:, :height, :width] for one in samples], 2) for name in names]
        media.write(torch.cat(rows, 1), folder / f"{prefix}.png")
        return
    for name in names:
        sound = torch.cat([one[name] for one in samples], 1)
        media.write(sound, folder / f"{prefix}-{name}.wav", sample_rate=codec.spec.sample_rate)
