"""Doubtful codes of a stream, settled as those of a whole signal (see exact.py)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tokenloom import devices

from ..layers import exact
from .stages import joined

LONGEST = 2**17
"""Samples after which a network without a bounded reach computes what it has in float64, so that they can go."""


class Doubts:
    """The samples that doubtful codes may need, and the codec in float64.

    Args:
        codec: A learned codec of sound.
        setting: The setting of the codes.
    """

    def __init__(self, codec: Any, setting: Any) -> None:
        self.codec, self.setting = codec, setting
        self.twin = exact.in_float64(codec)
        self.stage = self.twin.analysis_stage() if codec.encoder_reach is None else None
        self.held: Tensor | None = None
        self.done = 0
        """Frames of `held` whose codes are settled."""

    def take(self, x: Tensor | None) -> None:
        """Take the next samples (batch, channels, samples)."""
        self.held = joined(self.held, x)

    def settle(self, found: Tensor, doubt: Tensor, last: bool) -> Tensor:
        """Return the indices of the next frames (batch, quantizers, frames), settled where `doubt` is true."""
        return self._from_windows(found, doubt) if self.stage is None else self._from_start(found, doubt, last)

    def _from_windows(self, found: Tensor, doubt: Tensor) -> Tensor:
        """Compute doubtful frames from the samples that they depend on."""
        assert self.held is not None
        stride, ((before, _),) = self.codec.spec.stride[0], self.codec.encoder_reach
        frames, count = -(-self.held.shape[-1] // stride), found.shape[2]
        ends = (self.done, frames - self.done - count)
        settled = exact.settle(self.codec, F.pad(found, ends), F.pad(doubt, ends), self.held, self.setting, self.twin)
        self.done += count
        dropped = max(0, self.done - before)
        self.held, self.done = self.held[..., dropped * stride :].clone(), self.done - dropped
        return settled[..., ends[0] : ends[0] + count]

    def _from_start(self, found: Tensor, doubt: Tensor, last: bool) -> Tensor:
        """Compute all frames since the last doubtful one, since each depends on all earlier ones."""
        if self.held is None or not (doubt.any() or self.held.shape[-1] > LONGEST):
            return found
        assert self.stage is not None
        latents = self.stage(self.held.to(devices.with_float64(found.device)).double(), last)
        self.held = None
        assert latents is not None
        settled = self.twin.search(latents[..., -found.shape[2] :], self.setting).to(found.device)
        return settled.where(doubt[:, None], found)
