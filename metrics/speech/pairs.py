"""Measures of speech and sound beside the original. Both waveforms are float32 (channels, samples) in [-1, 1] at one
sample rate, in Hz.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from tokenloom.codecs import media
from tokenloom.errors import missing

from .. import native
from ..audio import check_not_silent
from ..errors import Unmeasurable

T = TypeVar("T")


def stoi(reference: Tensor, output: Tensor, *, sample_rate: int, extended: bool) -> float:
    """Return the short-time objective intelligibility (Taal et al. 2011), averaged over channels."""
    check_not_silent(reference)
    try:
        pairs = zip(reference, output, strict=True)
        scores = [native.call("stoi", x, y, rate=sample_rate, extended=extended) for x, y in pairs]
    except native.NativeError as error:
        if error.kind == "ModuleNotFoundError":
            raise missing("pystoi", "speech", "STOI") from error
        if error.kind not in ("RuntimeWarning", "ValueError"):
            raise Unmeasurable(f"STOI: {error}") from error
        raise Unmeasurable("too little speech for STOI: fewer than 30 frames that are not silent") from error
    return float(sum(scores) / len(scores))


def pesq(reference: Tensor, output: Tensor, *, sample_rate: int, mode: str, rate: int, below: int | None) -> float:
    """Return the mean opinion score predicted by PESQ (ITU-T P.862), averaged over channels.

    Args:
        mode: "wb" or "nb".
        rate: Sample rate in Hz that both waveforms are resampled to. Waveforms of lower rates have no value.
        below: Waveforms at this rate or above have no value, because a wider mode suits them better.
    """
    if sample_rate < rate:
        raise Unmeasurable(f"data at {sample_rate} Hz, below the {rate} Hz of this mode")
    if below is not None and sample_rate >= below:
        raise Unmeasurable(f"data at {sample_rate} Hz; this mode is for less than {below} Hz")
    if reference.shape[-1] < sample_rate // 4:
        raise Unmeasurable("shorter than a quarter of a second")
    check_not_silent(reference, output)
    x, y = (media.resample(wave, sample_rate, rate) for wave in (reference, output))
    try:
        scores = [native.call("pesq", a, b, rate=rate, mode=mode) for a, b in zip(x, y, strict=True)]
    except native.NativeError as error:
        if error.kind == "ModuleNotFoundError":
            raise missing("pesq", "speech", "PESQ") from error
        raise Unmeasurable(f"PESQ: {error.message if error.kind == 'ValueError' else error}") from error
    return float(sum(scores) / len(scores))


def visqol(reference: Tensor, output: Tensor, *, sample_rate: int, mode: str, rate: int) -> float:
    """Return the mean opinion score predicted by ViSQOL 3 (Chinen et al. 2020, arXiv 2004.09584), in [1, 5].

    Args:
        mode: "speech" (at 16 kHz) or "audio" (music and all else, at 48 kHz).
        rate: Sample rate in Hz that both waveforms, the means of their channels, are resampled to.

    Raises:
        Unmeasurable: If a waveform is silent or too short.
    """
    check_not_silent(reference, output)
    x, y = (mono(wave, sample_rate, rate) for wave in (reference, output))
    return answered("ViSQOL", "visqol-python", lambda: native.call("visqol", x, y, rate=rate, mode=mode))


def mono(wave: Tensor, sample_rate: int, rate: int) -> Tensor:
    """Return the mean of the channels at a sample rate, float32 (samples,) in [-1, 1]."""
    return media.resample(wave.mean(0, keepdim=True), sample_rate, rate)[0].clamp(-1, 1)


def answered(label: str, package: str, call: Callable[[], T]) -> T:
    """Return what the child process answers. Its errors become the reason of a missing value."""
    try:
        return call()
    except native.NativeError as error:
        if error.kind == "ModuleNotFoundError":
            raise missing(package, "judges", label) from error
        raise Unmeasurable(f"{label}: {error}") from error
