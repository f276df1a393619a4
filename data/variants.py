"""Copies of a signal: shifted, scaled or mirrored images, and faster or slower sounds.

The transformation of copy k depends on k alone. Documents with several images need this, because their images must be
transformed alike. The tokens of all copies can also be computed once, before a training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom.codecs import media
from tokenloom.codecs.media import notices
from tokenloom.codecs.types import CodeSpec, Modality

from .sources.source import Item, Source

SHIFT, SCALE = 0.07, (0.86, 1.04)
"""Largest shift of an image relative to its side, and range of its scale."""
SPEED, GAIN_DB = (0.88, 1.12), (-9.0, 3.0)
"""Ranges of the speed of a sound, which also changes the pitch, and of its gain."""


def image(x: Tensor, copy: int) -> Tensor:
    """Return a copy of an image, float32 (3, height, width) in [0, 1]. 0 is the original; odd copies are mirrored."""
    if mirrored := copy % 2:
        copy -= 1
    if copy:
        across, down, scale = _draws(copy, 3)
        scale = SCALE[0] + scale * (SCALE[1] - SCALE[0])
        across, down = ((2 * n - 1) * SHIFT * 2 for n in (across, down))  # in coordinates from −1 to 1
        affine = torch.tensor([[1 / scale, 0.0, across], [0.0, 1 / scale, down]])
        grid = F.affine_grid(affine[None], [1, *x.shape], align_corners=False)
        # bicubic; the border pixels are repeated
        x = F.grid_sample(x[None], grid, "bicubic", "border", align_corners=False)[0]
        x = (x.clamp(0, 1) * 255).round() / 255
    return x.flip(2).contiguous() if mirrored else x


def audio(x: Tensor, sample_rate: int, copy: int) -> Tensor:
    """Return a copy of audio, float32 (channels, samples) in [-1, 1]. Copy 0 is the original. The gain never clips."""
    if not copy:
        return x
    speed, gain = _draws(copy, 2)
    speed, gain = (low + n * (high - low) for n, (low, high) in ((speed, SPEED), (gain, GAIN_DB)))
    x = media.resample(x, round(sample_rate * speed), sample_rate)
    return (x * min(10 ** (gain / 20), 1 / max(float(x.abs().max()), 1e-9))).clamp(-1, 1)  # against rounding errors


class Copies(Source):
    """The copies of every item of a source, item by item. Audio has the sample rate and channels of `spec`."""

    def __init__(self, source: Source, copies: int, spec: CodeSpec) -> None:
        self.source, self.copies, self.spec = source, copies, spec
        self.name = source.name

    def __len__(self) -> int:
        return len(self.source) * self.copies

    def contents(self) -> Iterator[tuple[str, int]]:
        return self.source.contents()

    def __getitem__(self, i: int) -> Item:
        number, copy = divmod(self._check(i), self.copies)
        item = self.source[number]
        key = item.key if self.copies == 1 else f"{item.key}/{copy}"
        if item.modality is not self.spec.modality:
            return replace(item, key=key)
        if item.modality is Modality.IMAGE:
            return replace(item, key=key, signal=image(item.signal, copy))
        rate = self.spec.sample_rate or 1
        with notices.collect() as found:
            signal = media.convert(item.signal, item.sample_rate or rate, rate, self.spec.channels)
        told = (*item.notices, *found)
        return replace(item, key=key, signal=audio(signal, rate, copy), sample_rate=rate, notices=told)


def _draws(copy: int, count: int) -> list[float]:
    return np.random.default_rng([29, copy]).random(count).tolist()
