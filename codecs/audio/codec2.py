"""Codec 2, David Rowe's vocoder for speech at .7 to 3.2 kbit/s. The tokens are the bytes of its frames."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom import lazy

from .. import media
from ..native import NativeCodec
from ..registry import register
from ..types import CodeSpec, Modality, Settings

pycodec2 = lazy.load("pycodec2", "classical")

PROGRAM = Path(__file__).with_name("codec2_child.py")
DELAYS = {700: 240, 1200: 160, 1300: 160, 1400: 160, 1600: 160, 2400: 160, 3200: 160}
"""Mode in bit/s → samples by which the decoded sound is late: the shift of the largest STOI, measured on speech."""


@register("audio/codec2")
class Codec2(NativeCodec):
    """Codec 2: speech at 8 kHz as the parameters of a sinusoidal model. Setting: bit/s, a mode of the codec.

    A byte states the mode; the bits of the frames follow, packed without the padding of each frame to whole bytes. The
    delay of the codec is undone. The library draws the phases of noise from a state that it never resets, so a new
    process decodes each item, in a fifth of a second, and always to the same sound.
    """

    spec = CodeSpec(Modality.AUDIO, (256,), (), channels=1, sample_rate=8_000, total=False)
    settings = Settings("mode", "bit/s", 1300, tuple(DELAYS))

    def to_bytes(self, signal: Tensor, setting: int) -> bytes:
        encoder = pycodec2.Codec2(setting)
        frame = encoder.samples_per_frame()
        padded = F.pad(signal[0], (0, frame * _frames(signal.shape[1], setting, frame) - signal.shape[1]))
        pcm = media.to_int16(padded).numpy()
        frames = np.frombuffer(b"".join(map(encoder.encode, pcm.reshape(-1, frame))), np.uint8)
        bits = np.unpackbits(frames.reshape(-1, encoder.bytes_per_frame()), axis=1)[:, : encoder.bits_per_frame()]
        return bytes([list(DELAYS).index(setting)]) + np.packbits(bits).tobytes()

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        (samples,) = size
        if not data or data[0] >= len(DELAYS):
            raise ValueError(f"{self.name}: the first byte must be a mode below {len(DELAYS)}, got {data[:1]!r}")
        mode = list(DELAYS)[data[0]]
        decoder = pycodec2.Codec2(mode)
        width, count = decoder.bits_per_frame(), _frames(samples, mode, decoder.samples_per_frame())
        bits = np.unpackbits(np.frombuffer(data[1:], np.uint8))
        if len(data) - 1 != -(-count * width // 8) or bits[count * width :].any():
            raise ValueError(
                f"{self.name} needs {-(-count * width // 8)} bytes of {count} frames, and zeros as the last bits; it "
                f"got {len(data) - 1} bytes"
            )
        frames = np.packbits(bits[: count * width].reshape(count, width), axis=1).tobytes()
        pcm = np.frombuffer(_decode(mode, frames), "<i2").astype(np.float32) / 32768
        return torch.from_numpy(pcm[DELAYS[mode] : DELAYS[mode] + samples])[None]


def _frames(samples: int, mode: int, frame: int) -> int:
    """Return the number of frames of a signal and of the delay."""
    return -(-(samples + DELAYS[mode]) // frame)


def _decode(mode: int, frames: bytes) -> Any:
    command = [sys.executable, "-P", str(PROGRAM)]  # -P: the modules beside the program are not its imports
    done = subprocess.run(command, input=b"%d\n" % mode + frames, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"the process of Codec 2 ended with status {done.returncode}: {done.stderr[-200:]!r}")
    return done.stdout
