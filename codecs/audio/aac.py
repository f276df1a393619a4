"""AAC-LC by FFmpeg in PyAV. The tokens are the bytes of an ADTS file."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tokenloom import errors, lazy

from .. import media
from ..registry import register
from ..types import Settings
from .classical import SoundfileCodec, geometric

av = lazy.load("av", "classical")

FRAME = 1024
"""Samples of a frame."""
DELAY = 1024
"""Samples of silence before the signal, which the encoder adds."""
HEADER = 7
"""Bytes of a frame's header."""
RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
"""Sample rates in Hz by their index in a header."""


@register("audio/aac")
class Aac(SoundfileCodec):
    """AAC-LC by FFmpeg's encoder with its two-loop search. Setting: nominal mean in kbit/s per channel.

    Its range depends on the sample rate: beyond it, the encoder writes no fewer or no more bits. The headers of the
    frames take .4 kbit/s at 8 kHz, 1.3 at 24 kHz and 2.4 at 44.1 kHz. PyAV has no encoder of HE-AAC.
    """

    format, subtype = "ADTS", "AAC"
    native_rates = tuple(reversed(RATES))

    def __init__(self, sample_rate: int = 24_000, channels: int = 1) -> None:
        super().__init__(sample_rate, channels)
        low, high = max(8, self.native_rate // 2000), min(160, self.native_rate // 250)
        sweep = geometric(low, high)
        self.settings = Settings("bitrate", "kbit/s per channel", sweep[4], sweep, tuple(range(low, high + 1)))

    def to_bytes(self, signal: Tensor, setting: int) -> bytes:
        native = media.resample(signal, self.sample_rate, self.native_rate)
        layout, file = self._layout(), io.BytesIO()
        with av.open(file, "w", format="adts") as output:
            stream = output.add_stream("aac", rate=self.native_rate, layout=layout, options={"aac_coder": "twoloop"})
            stream.bit_rate = 1000 * setting * self.spec.channels
            for start in range(0, native.shape[1], FRAME):
                part = np.ascontiguousarray(native[:, start : start + FRAME].numpy())
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = self.native_rate, start
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return file.getvalue()

    def _decode_file(self, data: bytes, frames: int) -> Tensor:
        decoder, parts = av.CodecContext.create("aac", "r"), []
        try:
            for packet in self._packets(data, -(-(frames + DELAY) // FRAME)):
                parts += [frame.to_ndarray() for frame in decoder.decode(av.Packet(packet))]
        except (av.error.FFmpegError, ValueError) as error:
            raise ValueError(errors.first_line(error)) from error
        if not parts or {part.shape for part in parts} != {(self.spec.channels, FRAME)}:
            raise ValueError(f"it must decode to frames of {self.spec.channels} channels and {FRAME} samples")
        waveform = torch.from_numpy(np.concatenate(parts, 1)[:, DELAY : DELAY + frames])
        if waveform.shape[1] != frames or not waveform.isfinite().all():
            raise ValueError(f"it must decode to {frames} finite samples")
        return waveform.clamp(-1, 1)

    def _layout(self) -> str:
        return "mono" if self.spec.channels == 1 else "stereo"

    def _packets(self, data: bytes, count: int) -> Iterator[bytes]:
        """Yield the frames of a file, each with its header (ISO 13818-7, 6.2).

        Raises:
            ValueError: If a header is not that of our encoder, or the number of frames differs.
        """
        index, position = RATES.index(self.native_rate), 0
        for _ in range(count):
            head = data[position : position + HEADER]
            length = int.from_bytes(head[3:6], "big") >> 5 & 0x1FFF
            kind = (0xFFF1, 1 << 6 | index << 2, self.spec.channels << 6)  # version 4, no checksum; profile LC
            if len(head) < HEADER or (int.from_bytes(head[:2], "big"), head[2], head[3] & 0xFC) != kind:
                raise ValueError(f"frame header {head.hex()} at byte {position}")
            if length <= HEADER or position + length > len(data):
                raise ValueError(f"a frame of {length} bytes at byte {position} of {len(data)}")
            yield data[position : position + length]
            position += length
        if position != len(data):
            raise ValueError(f"{len(data) - position} bytes after the last frame")
