"""Random crops of signals, with flips, scaling and padding of images and a random gain of audio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality

from .sources.source import BrokenItem, Item, at_least


@dataclass(frozen=True)
class Augment:
    """Random variation of crops.

    Attributes:
        flip: Mirror half of the images left to right.
        scale: Downscale images by a uniform factor from `scale` to 1 before cropping, as far as their size allows.
        pad: Padding of images that are smaller than the crop: "reflect" or "edge" (repeats the border pixels).
        margin: Pixels of additional padding on each side of such images, so that their crops shift by up to that much.
        gain_db: Lowest and highest gain of audio, uniform in dB. A gain that would clip is lowered.
    """

    flip: bool = True
    scale: float = 1.0
    pad: str = "reflect"
    margin: int = 0
    gain_db: tuple[float, float] = (-12.0, 6.0)

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must be above 0 and at most 1, got {self.scale!r}")
        if self.pad not in ("reflect", "edge"):
            raise ValueError(f"pad must be reflect or edge, got {self.pad!r}")
        at_least("margin", self.margin, 0)
        if len(self.gain_db) != 2 or not self.gain_db[0] <= self.gain_db[1]:
            raise ValueError(f"gain_db must be a lowest and a highest gain, got {self.gain_db!r}")


NO_AUGMENT = Augment(flip=False, gain_db=(0.0, 0.0))
"""Random crops without other variation."""


class ImageCrop:
    """Random crops of images: uint8 (3, height, width) → uint8 (3, size, size)."""

    def __init__(self, size: int, augment: Augment) -> None:
        self.size, self.augment = size, augment

    def prepare(self, item: Item) -> Tensor:
        """Convert an item once, before its first crop."""
        _expect(item, Modality.IMAGE)
        return media.to_uint8(item.signal)

    def __call__(self, image: Tensor, draw_next: Callable[[], Tensor], rng: np.random.Generator) -> Tensor:
        # all numbers are always drawn, so that an option does not change the others
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
        mode: Any = self.augment.pad
        return torch.from_numpy(np.pad(image.numpy(), pads, mode=mode))


class AudioCrop:
    """Random crops of audio: float32 (channels, samples) → float32 (channels, size)."""

    def __init__(self, size: int, augment: Augment, sample_rate: int, channels: int) -> None:
        self.size, self.augment = size, augment
        self.sample_rate = at_least("sample_rate", sample_rate, 1)
        self.channels = at_least("channels", channels, 1)

    def prepare(self, item: Item) -> Tensor:
        """Convert an item to the sample rate and channels of the crops."""
        _expect(item, Modality.AUDIO)
        if item.signal.shape[-1] == 0:
            raise BrokenItem(f"{item.key}: has no samples")
        try:
            return media.convert(
                item.signal, item.sample_rate or self.sample_rate, self.sample_rate, self.channels
            ).contiguous()
        except ValueError as error:
            raise BrokenItem(f"{item.key}: {error}") from error

    def __call__(self, signal: Tensor, draw_next: Callable[[], Tensor], rng: np.random.Generator) -> Tensor:
        where, gain = rng.random(2)
        parts, total = [signal], signal.shape[-1]
        while total < self.size:
            parts.append(draw_next())
            total += parts[-1].shape[-1]
        # the crop starts within the first item
        start = int(where * min(total - self.size + 1, signal.shape[-1]))
        segment = torch.cat(parts, dim=-1)[:, start : start + self.size]
        low, high = self.augment.gain_db
        factor = 10 ** ((low + gain * (high - low)) / 20)
        peak = float(segment.abs().max())
        return (segment * min(factor, 1 / peak if peak > 0 else factor)).clamp_(-1, 1)


def _expect(item: Item, modality: Modality) -> None:
    if item.modality is not modality:
        raise ValueError(f"{item.key} must be {modality}, got {item.modality} (data.modality={modality} selects)")
