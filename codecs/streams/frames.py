"""Encoders that code frame by frame."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..types import CodecInterface, Codes
from .interface import StreamEncoder
from .stages import joined


class FrameEncoder(StreamEncoder):
    """Encoder that keeps samples until they complete a frame.

    Args:
        codec: The codec.
        setting: A value of its settings.
        used: Number of quantizers at this setting.
    """

    def __init__(self, codec: CodecInterface, setting: Any, used: int) -> None:
        super().__init__(codec, setting)
        self._used = used
        self._held: Tensor | None = None
        self._uncounted = 0

    @abstractmethod
    def _indices(self, x: Tensor | None, last: bool) -> Tensor | None:
        """Return the indices (batch, quantizers, frames) of the next whole frames of samples; None for none.

        With `last`, `x` has less than a frame, or is None, and all that is left comes out.
        """

    def _push(self, x: Tensor) -> Codes:
        self._uncounted += x.shape[-1]
        held, stride = joined(self._held, x), self.codec.spec.stride[0]
        assert held is not None
        whole = held.shape[-1] // stride * stride  # a pass for each sample would take long
        self._held = held[..., whole:].clone()
        return self._codes(self._indices(held[..., :whole], last=False) if whole else None, last=False)

    def _close(self) -> Codes:
        assert self._held is not None
        return self._codes(self._indices(self._held if self._held.shape[-1] else None, last=True), last=True)

    def _codes(self, indices: Tensor | None, last: bool) -> Codes:
        if indices is None:
            indices = torch.zeros(self.batch or 1, self._used, 0, dtype=torch.int64, device=self.codec.device)
        samples = self._uncounted if last else indices.shape[2] * self.codec.spec.stride[0]
        self._uncounted -= samples
        return Codes(indices, torch.full((len(indices), 1), samples, device=indices.device))
