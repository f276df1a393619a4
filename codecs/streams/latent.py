"""Streams of learned codecs: a network with state, and a quantizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..layers.tracing import Traceable
from ..types import Codes, Modality
from .doubts import Doubts
from .frames import FrameEncoder
from .interface import Streamable, StreamDecoder, StreamEncoder
from .stages import Stage, Windows


class LatentStreamable(Traceable, Streamable):
    """The part of a learned codec that opens streams. Networks of a bounded reach need no code of their own for it."""

    @property
    def stream_obstacle(self) -> str | None:
        if self.spec.modality is not Modality.AUDIO:
            return "streams are for sound"
        if self.spec.window is not None:
            return "it codes chunks that overlap, each with a scale"
        if self.encoder_reach is None or self.decoder_reach is None:
            return "its codes depend on the whole signal"
        return None

    def analysis_stage(self) -> Stage:
        """Return `analyze` as a function with state: samples → latents."""
        assert self.encoder_reach is not None
        return Windows(self.analyze, self.encoder_reach, self.spec.stride[0], 1)

    def synthesis_stage(self) -> Stage:
        """Return `synthesize` as a function with state: latents → samples."""
        assert self.decoder_reach is not None
        return Windows(self.synthesize, self.decoder_reach, 1, self.spec.stride[0])

    def _open_encoder(self, setting: Any) -> StreamEncoder:
        return LatentEncoder(self, setting)

    def _open_decoder(self) -> StreamDecoder:
        return LatentDecoder(self)


class LatentEncoder(FrameEncoder):
    """Encoder of a learned codec of sound. Its codes are settled as `encode` settles them (see exact.py)."""

    codec: LatentStreamable

    def __init__(self, codec: LatentStreamable, setting: Any) -> None:
        latents = torch.zeros(1, codec.quantizer.dim, 1, device=codec.device)
        super().__init__(codec, setting, codec.search(latents, setting).shape[1])
        self._stage = codec.analysis_stage()
        self._doubts = Doubts(codec, setting) if codec.invariant else None

    @property
    def latency(self) -> int:
        reach = self.codec.encoder_reach
        return 0 if reach is None else reach[0][1] * self.codec.spec.stride[0]

    @property
    @torch.no_grad()
    def delay(self) -> int:
        stage, stride = self.codec.analysis_stage(), self.codec.spec.stride[0]
        frame = torch.zeros(1, self.codec.spec.channels, stride, device=self.codec.device)
        frames = 1
        while stage(frame, False) is None:
            frames += 1
        return frames * stride

    def _indices(self, x: Tensor | None, last: bool) -> Tensor | None:
        with torch.autocast(self.codec.device.type, enabled=False):
            latents = self._stage(x, last)
            if self._doubts is not None:
                self._doubts.take(x)
            if latents is None:
                return None
            if self._doubts is None:
                return self.codec.search(latents, self.setting)
            return self._doubts.settle(*self.codec.decide(latents, self.setting), last)


class LatentDecoder(StreamDecoder):
    """Decoder of a learned codec of sound."""

    codec: LatentStreamable

    def __init__(self, codec: LatentStreamable) -> None:
        super().__init__(codec)
        self._stage = codec.synthesis_stage()
        self._due = 0
        """Samples that the codes so far have, less those returned."""

    @property
    def latency(self) -> int:
        reach = self.codec.decoder_reach
        return 0 if reach is None else reach[0][1]

    def _push(self, codes: Codes) -> Tensor:
        if not codes.indices.shape[2]:
            return self._samples(None)
        self._due += int(codes.sizes[0])
        with torch.autocast(self.codec.device.type, enabled=False):
            return self._samples(self._stage(self.codec._embed(codes), False))

    def _close(self) -> Tensor:
        with torch.autocast(self.codec.device.type, enabled=False):
            return self._samples(self._stage(None, True))

    def _samples(self, ready: Tensor | None) -> Tensor:
        if ready is None:
            return self._none()
        signal = ready[..., : self._due].float().clamp(-1, 1)
        self._due -= signal.shape[-1]
        return signal
