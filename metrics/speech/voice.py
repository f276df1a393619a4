"""Whether a voice is the same: its timbre, its pitch, and when it sounds.

Both waveforms are float32 (channels, samples) in [-1, 1] at one sample rate, in Hz.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .. import errors, native
from ..audio import check_not_silent
from ..errors import Unmeasurable
from .pairs import answered, mono

RATE = 16000
"""Sample rate in Hz of everything here."""
GROSS = 0.2
"""Relative difference of two pitches from which on an error is gross."""
INSTALL = "pip install --no-deps resemblyzer webrtcvad, beside the extra judges and setuptools before 82"
"""The package asks for `typing` of 2018 too, which breaks pip on any present Python, so no extra can name it."""


# -- timbre ---------------------------------------------------------------------------------------


def speaker_similarity(reference: Tensor, output: Tensor, *, sample_rate: int) -> float:
    """Return the cosine of two speaker embeddings (Wan et al. 2018, arXiv 1710.10467), in [0, 1].

    The embedding is Resemblyzer's `embed_utterance(preprocess_wav(wave))`, of the mean of the channels.

    Raises:
        Unmeasurable: If a waveform is silent, or has no voice.
    """
    check_not_silent(reference, output)
    x, y = (mono(wave, sample_rate, RATE) for wave in (reference, output))
    return answered("speaker similarity", "resemblyzer", lambda: native.call("speaker", x, y, rate=RATE))


def speaker_missing() -> str | None:
    """Return the reason why speakers cannot be compared, or None."""
    packages = ("resemblyzer", "webrtcvad", "librosa", "pkg_resources")
    absent = next((name for name in packages if errors.missing_package(name, "judges")), None)
    return absent and f"the package {absent} is not installed ({INSTALL})"


# -- pitch ----------------------------------------------------------------------------------------


def f0_error(reference: Tensor, output: Tensor, *, sample_rate: int, **tracker: float) -> float:
    """Return the root mean square error of the fundamental frequency in cents, over frames with voice in both.

    Frames with a gross error are left out, since a single octave would outweigh all others; see `f0_gross_error`.

    Args:
        reference: The original.
        output: Its reconstruction.
        sample_rate: In Hz.
        **tracker: The settings of pYIN (Mauch and Dixon 2014): `low` and `high` in Hz, `frame` and `hop` in samples at
            RATE.

    Raises:
        Unmeasurable: If no frame is left.
    """
    ratio = _ratios(reference, output, sample_rate, tracker)
    fine = ratio[(ratio - 1).abs() <= GROSS]
    if not len(fine):
        raise Unmeasurable("no frame has the same pitch in both sounds")
    return float((1200 * fine.log2()).square().mean().sqrt())


def f0_gross_error(reference: Tensor, output: Tensor, *, sample_rate: int, **tracker: float) -> float:
    """Return the gross pitch error (Chu and Alwan 2009): the share of frames with voice in both sounds whose pitch
    differs by more than GROSS. The arguments are those of `f0_error`.
    """
    return float(((_ratios(reference, output, sample_rate, tracker) - 1).abs() > GROSS).double().mean())


def _ratios(reference: Tensor, output: Tensor, sample_rate: int, tracker: dict[str, float]) -> Tensor:
    """Return the pitch of the output over that of the original, in the frames with voice in both."""
    x, y = _pitches(reference, output, sample_rate, tracker)
    both = (x > 0) & (y > 0)
    if not both.any():
        raise Unmeasurable("no frame has voice in both sounds")
    return y[both] / x[both]


def voicing_error(reference: Tensor, output: Tensor, *, sample_rate: int, **tracker: float) -> float:
    """Return the voicing decision error (Chu and Alwan 2009): the share of frames with voice in one sound only.

    The arguments are those of `f0_error`.
    """
    x, y = _pitches(reference, output, sample_rate, tracker)
    return float(((x > 0) != (y > 0)).double().mean())


def _pitches(reference: Tensor, output: Tensor, sample_rate: int, tracker: dict[str, float]) -> tuple[Tensor, Tensor]:
    check_not_silent(reference)
    settings = tuple(sorted(tracker.items()))
    waves = (mono(wave, sample_rate, RATE).contiguous().numpy().tobytes() for wave in (reference, output))
    x, y = (_pitch(wave, settings) for wave in waves)
    return x, y


@functools.lru_cache(maxsize=64)  # two metrics need it, and the same original comes again with each setting
def _pitch(samples: bytes, settings: tuple[tuple[str, Any], ...]) -> Tensor:
    wave = torch.frombuffer(bytearray(samples), dtype=torch.float32)
    if len(wave) < dict(settings)["frame"]:
        raise Unmeasurable("shorter than a frame of the pitch tracker")
    found = answered("pYIN", "librosa", lambda: native.call("pitch", wave, rate=RATE, **dict(settings)))
    return torch.tensor(found, dtype=torch.float64)
