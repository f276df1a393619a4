"""What a decoder paints: signals as planes (batch, channels, height, width) of values around −1 to 1, and back."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom.codecs.types import CodeSpec, Modality

WINDOW_SECONDS = 0.032
FLOOR = 1e-4
"""Magnitudes below −80 dB of a full-scale sine count as silence."""
ROUNDS = 8
"""In which phases settle."""


class Pixels:
    """Pictures: the planes are their channels, scaled from [0, 1] to [−1, 1]."""

    positioned = False
    """Whether the height of a plane means something by itself."""

    def __init__(self, spec: CodeSpec) -> None:
        self.channels = spec.channels
        self.strides = spec.stride
        """Rows and columns of a plane that a code stands for; () where a code has no place."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) in [0, 1] → planes of the same shape."""
        return x * 2 - 1

    def inverse(self, planes: Tensor, plain: Tensor, *, settled: bool = False) -> Tensor:
        """Planes → pictures, clamped."""
        return ((planes + 1) / 2).clamp(0, 1)


class Spectrogram:
    """Sound: the planes are log magnitudes of a short-time Fourier transform, frequency by time.

    Hann windows of the power of two that is nearest to 32 ms, a quarter apart. Magnitudes are scaled so that a sine
    of full scale has 1, floored at −80 dB, and their logarithm goes from −1 (the floor) to 1. The way back takes the
    phases of the codec's own reconstruction: the codes of a codec that does not follow the waveform say nothing of
    phases, and those of its reconstruction fit together.
    """

    positioned = True
    decibel = -10 * math.log10(FLOOR)
    """What 1 in a plane is in dB."""

    def __init__(self, spec: CodeSpec) -> None:
        self.channels = spec.channels
        self.size = 2 ** max(4, round(math.log2(WINDOW_SECONDS * spec.sample_rate)))
        self.hop = self.size // 4
        self.strides = (self.size, spec.stride[0] / self.hop) if spec.stride else ()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, samples) in [−1, 1] → (batch, channels, size / 2 + 1, samples // hop + 1)."""
        magnitude = self._transform(x).abs() * (4 / self.size)  # half the sum of a Hann window is size / 4
        return (magnitude + FLOOR).log() * (-2 / math.log(FLOOR)) + 1

    def inverse(self, planes: Tensor, plain: Tensor, *, settled: bool = False) -> Tensor:
        """Planes, with the phases of `plain` (batch, channels, samples), → a waveform of its length, clamped.

        settled  let the phases settle to these magnitudes (Griffin and Lim 1984), a few rounds of it
        """
        magnitude = (((planes - 1) * (-math.log(FLOOR) / 2)).clamp_max(3).exp() - FLOOR).clamp_min(0) * (self.size / 4)
        x = self._back(magnitude, plain)
        for _ in range(ROUNDS if settled else 0):
            x = self._back(magnitude, x)
        return x.clamp(-1, 1)

    def _back(self, magnitude: Tensor, phases: Tensor) -> Tensor:
        """The waveform of these magnitudes with the phases of another waveform, as long as that."""
        spectrum = (magnitude * torch.exp(1j * self._transform(phases).angle())).flatten(0, 1)
        window = torch.hann_window(self.size, device=phases.device)
        length = phases.shape[-1]
        x = torch.istft(spectrum, self.size, self.hop, window=window, length=max(length, self.size))
        return x[..., :length].unflatten(0, phases.shape[:2])

    def _transform(self, x: Tensor) -> Tensor:
        window = torch.hann_window(self.size, device=x.device)
        missing = max(0, self.size - x.shape[-1])  # a window at least
        rows = F.pad(x, (0, missing)).flatten(0, 1)
        spectrum = torch.stft(rows, self.size, self.hop, window=window, pad_mode="constant", return_complex=True)
        return spectrum.unflatten(0, x.shape[:2])


def planes(spec: CodeSpec) -> Pixels | Spectrogram:
    """The planes of a codec's signals."""
    return {Modality.IMAGE: Pixels, Modality.AUDIO: Spectrogram}[spec.modality](spec)
