"""Features of images and sounds that need no network, for distances between sets.

The features are statistics of 8×8 block DCTs of images and of mel spectrograms of sounds. They differ between real,
blurred, noisy and sharpened signals.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from tokenloom.codecs import media

from . import audio
from .errors import Unmeasurable

BLOCK = 8
BANDS = ((0, 0), (1, 1), (2, 3), (4, 6), (7, 14))
"""Bands of chroma coefficients: the lowest and the highest u + v, the sum of both frequency indices."""
MEL_FRAME_SECONDS = 0.032
MEL_BANDS = 40
MEL_FLOOR = 1e-4

BLOCK_DCT = (
    "images rounded to 8 bits, YCbCr of ITU-R BT.601 in levels of 0 to 255, orthonormal 8x8 DCT-II of every full "
    "block from the top left corner, after subtracting 128; ln(|coefficient| + 1): mean and standard deviation over "
    "blocks of the 64 luma coefficients, and of Cb and Cr averaged in five bands of u + v: "
    + ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in BANDS)
)
"""Definition of `block_dct`."""
MEL_STATISTICS = (
    f"natural logarithm of the mel magnitude spectrogram (HTK scale, {MEL_BANDS} bands from 0 to half the sample "
    f"rate, Hann frames of the smallest power of two that lasts {MEL_FRAME_SECONDS} s, hop a quarter, floor "
    f"{MEL_FLOOR:g} of full scale): mean and standard deviation over frames of every band, and the root mean square "
    "of its differences to the next frame and to the next band; mean over channels"
)
"""Definition of `mel_statistics`."""


def block_dct(x: Tensor) -> Tensor:
    """Return features of an image (3, height, width) in [0, 1], float64 (148,); see BLOCK_DCT."""
    height, width = (n // BLOCK for n in x.shape[-2:])
    if not height or not width:
        raise Unmeasurable(f"a side is shorter than a block of {BLOCK} pixels")
    planes = _ycbcr(media.to_uint8(x.detach().float().cpu()).double()) - 128
    planes = planes[:, : height * BLOCK, : width * BLOCK]
    blocks = planes.unflatten(2, (width, BLOCK)).unflatten(1, (height, BLOCK)).transpose(2, 3).flatten(1, 2)
    basis = _dct_basis()
    logs = (basis @ blocks @ basis.T).abs().add(1).log()  # (3, blocks, 8, 8)
    order = torch.arange(BLOCK)[:, None] + torch.arange(BLOCK)
    chroma = torch.stack([logs[1:, :, (order >= low) & (order <= high)].mean(2) for low, high in BANDS], 2)
    luma = logs[0].flatten(1)
    parts = (luma.mean(0), luma.std(0, correction=0), chroma.mean(1), chroma.std(1, correction=0))
    return torch.cat([part.flatten() for part in parts])


def log_mel(wave: Tensor, sample_rate: int) -> Tensor:
    """Return the log-mel spectrogram that `mel_statistics` describes, float64 (channels, bands, frames)."""
    return audio.log_mel(wave.detach().cpu(), sample_rate, MEL_FRAME_SECONDS, MEL_BANDS, MEL_FLOOR)


def mel_statistics(wave: Tensor, sample_rate: int) -> Tensor:
    """Return features of a waveform (channels, samples) in [-1, 1], float64 (159,); see MEL_STATISTICS."""
    mel = log_mel(wave, sample_rate)
    in_time, in_frequency = mel.diff(dim=2), mel.diff(dim=1)
    change = in_time.square().sum(2) / max(in_time.shape[2], 1)  # a single frame has no change
    parts = (mel.mean(2), mel.std(2, correction=0), change.sqrt(), in_frequency.square().mean(2).sqrt())
    return torch.cat([part.mean(0) for part in parts])


def _ycbcr(x: Tensor) -> Tensor:
    """Convert RGB levels (3, …) to Y, Cb, Cr of BT.601, full range."""
    matrix = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    offset = x.new_tensor([0.0, 128.0, 128.0])
    return torch.tensordot(x.new_tensor(matrix), x, 1) + offset.view(3, *[1] * (x.ndim - 1))


@functools.cache
def _dct_basis() -> Tensor:
    """Return the basis of the orthonormal DCT-II as rows, float64 (8, 8)."""
    k, n = torch.arange(BLOCK).double()[:, None], torch.arange(BLOCK).double()
    basis = torch.cos(math.pi * (2 * n + 1) * k / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis
