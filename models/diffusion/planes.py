"""Conversion between signals and planes (batch, channels, height, width) of values around −1 to 1."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom.codecs.types import CodeSpec, Modality

WINDOW_SECONDS = 0.032
FLOOR = 1e-4
"""Magnitudes below −80 dB of a full-scale sine count as silence."""
GRIFFIN_LIM_ROUNDS = 8


class Pixels:
    """Planes of images: the channels, scaled from [0, 1] to [−1, 1]."""

    positioned = False
    """Whether the rows have a fixed meaning, as frequencies do."""

    def __init__(self, spec: CodeSpec) -> None:
        self.channels = spec.channels
        self.strides = spec.stride
        """Rows and columns of a plane per code; () if codes have no position."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the planes of images (batch, 3, height, width) in [0, 1], in the same shape."""
        return x * 2 - 1

    def inverse(self, planes: Tensor, reconstruction: Tensor, *, refine: bool = False) -> Tensor:
        """Return the images of planes, clamped. Other arguments are not used."""
        return ((planes + 1) / 2).clamp(0, 1)


class Spectrogram:
    """Planes of audio: log magnitudes of a short-time Fourier transform, frequency by time.

    The window is a Hann window whose length is the power of two nearest to 32 ms; the hop is a quarter of it.
    A full-scale sine has magnitude 1. Magnitudes are floored at −80 dB, and their logarithms are scaled to −1 (the
    floor) to 1. The inverse takes its phases from the codec's own reconstruction, where they are consistent.
    """

    positioned = True
    decibel = -10 * math.log10(FLOOR)
    """dB per unit of a plane."""

    def __init__(self, spec: CodeSpec) -> None:
        self.channels = spec.channels
        self.size = 2 ** max(4, round(math.log2(WINDOW_SECONDS * spec.sample_rate)))
        self.hop = self.size // 4
        self.strides = (self.size, spec.stride[0] / self.hop) if spec.stride else ()

    def forward(self, x: Tensor) -> Tensor:
        """Return planes (batch, channels, size / 2 + 1, samples // hop + 1) of audio (batch, channels, samples)."""
        magnitude = self._transform(x).abs() * (4 / self.size)  # half the sum of a Hann window is size / 4
        return (magnitude + FLOOR).log() * (-2 / math.log(FLOOR)) + 1

    def inverse(self, planes: Tensor, reconstruction: Tensor, *, refine: bool = False) -> Tensor:
        """Return the waveform of planes, clamped, with the phases and the length of a reconstruction.

        If `refine`, a few rounds of Griffin and Lim (1984) adapt the phases to the magnitudes.
        """
        magnitude = (((planes - 1) * (-math.log(FLOOR) / 2)).clamp_max(3).exp() - FLOOR).clamp_min(0) * (self.size / 4)
        x = self._waveform(magnitude, reconstruction)
        for _ in range(GRIFFIN_LIM_ROUNDS if refine else 0):
            x = self._waveform(magnitude, x)
        return x.clamp(-1, 1)

    def _waveform(self, magnitude: Tensor, phases: Tensor) -> Tensor:
        """Waveform with these magnitudes, and with the phases and the length of the waveform `phases`."""
        spectrum = (magnitude * torch.exp(1j * self._transform(phases).angle())).flatten(0, 1)
        window = torch.hann_window(self.size, device=phases.device)
        length = phases.shape[-1]
        x = torch.istft(spectrum, self.size, self.hop, window=window, length=max(length, self.size))
        return x[..., :length].unflatten(0, phases.shape[:2])

    def _transform(self, x: Tensor) -> Tensor:
        window = torch.hann_window(self.size, device=x.device)
        missing = max(0, self.size - x.shape[-1])  # at least one window
        rows = F.pad(x, (0, missing)).flatten(0, 1)
        spectrum = torch.stft(rows, self.size, self.hop, window=window, pad_mode="constant", return_complex=True)
        return spectrum.unflatten(0, x.shape[:2])


def planes(spec: CodeSpec) -> Pixels | Spectrogram:
    """Return the kind of planes for a codec's signals."""
    return {Modality.IMAGE: Pixels, Modality.AUDIO: Spectrogram}[spec.modality](spec)
