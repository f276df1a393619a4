"""What tasks that train on signals share: the split of their data, and random crops of it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import data
from tokenloom.codecs import LatentCodec, Modality, media
from tokenloom.data import Item, Source
from tokenloom.data.loader import Augment, Crops, crops
from tokenloom.data.sources.subset import Subset

from .. import check
from ..config import TrainConfig
from ..job import Job

DEFAULT_CROP = {Modality.IMAGE: 128, Modality.AUDIO: 1}
"""Pixels, seconds."""
HELD_OUT = 16


class SignalJob(Job):
    """A task over random crops of the signals that a codec takes.

    codec                      whose modality, sample rate and channels the crops have
    train_set, validation_set  of the config
    """

    codec: LatentCodec

    def __init__(self, cfg: TrainConfig) -> None:
        super().__init__(cfg)
        self.train_set, self.validation_set = _split(cfg)

    @property
    def crop_size(self) -> int:
        """Pixels of a side, or samples."""
        return self.cfg.crop.size or DEFAULT_CROP[self.codec.spec.modality] * (self.codec.spec.sample_rate or 1)

    def batches(self, **which: int) -> Crops:
        return self.crops(batch_size=self.cfg.batch_size, workers=self.cfg.workers, **which)

    def crops(self, **which: Any) -> Crops:
        """Batches of the training set, see `loader.crops`."""
        cfg, spec = self.cfg, self.codec.spec
        audio = spec.modality is Modality.AUDIO
        crop = cfg.crop
        return crops(
            self.train_set, size=self.crop_size,
            seed=cfg.seed, strict=bool(cfg.data.get("strict", False)),
            sample_rate=spec.sample_rate, channels=spec.channels if audio else None,
            augment=Augment(crop.flip, crop.scale, crop.pad, crop.margin, tuple(crop.gain_db)), **which,
        )  # fmt: skip

    def first_crop(self) -> Tensor:
        """One crop of the data, as a batch: wrong modalities, sizes and options show before a run has begun."""
        modality, item = self.codec.spec.modality, next(self.validation_set.items())
        if item.modality is not modality:
            raise ValueError(f"validation: {item.key} is {item.modality}, the codec is for {modality}")
        check.crop(self.crop_size, modality)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken items are told of when they are trained on
            return next(iter(self.crops(batch_size=1, steps=1)))[1]

    def described(self) -> dict[str, Any]:
        """The data, as a resumed run compares it."""
        return {"name": self.cfg.data["name"], "items": len(self.train_set)}


def _split(cfg: TrainConfig) -> tuple[Source, Source]:
    """The training set, and a validation set: the one named, or the last few items of the first."""
    source = _open(cfg.data, cfg.task)
    if len(source) < 2:
        raise ValueError(f"{source.name} has {len(source)} items; training needs at least 2")
    if cfg.validation:
        return source, _open(cfg.validation, cfg.task)
    held = max(1, min(HELD_OUT, len(source) // 20))
    cut = len(source) - held
    return Subset(source, range(cut)), Subset(source, range(cut, len(source)))


def _open(node: dict[str, Any], task: str) -> Source:
    if node.get("name") == "documents":
        names = ", ".join(data.names())
        raise ValueError(f"data=documents is for task=transformer; a {task} trains on one of {names}")
    return data.open_source(**{k: v for k, v in node.items() if k != "strict"})


def fit(item: Item, codec: LatentCodec) -> Tensor:
    """An item's signal at the codec's rate and channels; long audio cut to 10 s."""
    if codec.spec.modality is Modality.IMAGE:
        return item.signal
    signal = item.signal[:, : 10 * item.sample_rate]
    return media.convert(signal, item.sample_rate, codec.spec.sample_rate, codec.spec.channels)


def write_samples(shown: list[dict[str, Tensor]], codec: LatentCodec, folder: Path, step: int) -> None:
    """Signals of a few items, each under several names: as one picture, a row a name; or as one sound a name."""
    if not shown:
        return
    names, stem = list(shown[0]), f"{step:07d}"
    if codec.spec.modality is Modality.IMAGE:
        side = [min(256, *(one[name].shape[axis] for one in shown for name in names)) for axis in (1, 2)]
        rows = [torch.cat([one[name][:, : side[0], : side[1]] for one in shown], 2) for name in names]
        media.write(torch.cat(rows, 1), folder / f"{stem}.png")
        return
    for name in names:
        sound = torch.cat([one[name] for one in shown], 1)
        media.write(sound, folder / f"{stem}-{name}.wav", sample_rate=codec.spec.sample_rate)
