"""Metrics of speech. Both waveforms are float32 (channels, samples) in [-1, 1] at one sample rate, in Hz."""

from __future__ import annotations

import warnings

from torch import Tensor

from tokenloom import lazy
from tokenloom.codecs import media

from .audio import check_not_silent
from .errors import Unmeasurable

# the packages have functions of the same names
pesq_package = lazy.load("pesq", "speech")
pystoi = lazy.load("pystoi", "speech")


def stoi(reference: Tensor, output: Tensor, *, sample_rate: int, extended: bool) -> float:
    """Return the short-time objective intelligibility (Taal et al. 2011), averaged over channels."""
    check_not_silent(reference)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # with too few frames, the library warns and returns 1e-5
        try:
            pairs = zip(reference, output, strict=True)
            scores = [pystoi.stoi(x.numpy(), y.numpy(), sample_rate, extended) for x, y in pairs]
        except (RuntimeWarning, ValueError) as error:
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
        scores = [pesq_package.pesq(rate, a.numpy(), b.numpy(), mode) for a, b in zip(x, y, strict=True)]
    except pesq_package.PesqError as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise Unmeasurable(f"PESQ: {reason.decode() if isinstance(reason, bytes) else reason}") from error
    return float(sum(scores) / len(scores))
