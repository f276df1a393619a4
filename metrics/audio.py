"""Audio metrics: (channels, samples) float32 against the same, at the data's own sample rate."""

from __future__ import annotations

import functools
import math
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor

from .errors import Unmeasurable

SILENCE = 1e-8
"""Mean power below which a signal counts as silent: -80 dB."""


def _loud(x: Tensor, what: str) -> Tensor:
    if x.square().mean() < SILENCE:
        raise Unmeasurable(f"the {what} is silent")
    return x


def si_sdr(reference: Tensor, output: Tensor, *, sample_rate: int, zero_mean: bool) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), mean over channels.

    inf where the output equals the reference exactly.
    """
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    _loud(reference, "original"), _loud(output, "reconstruction")
    if torch.equal(reference, output):
        return math.inf
    # float64: the library adds eps to both energies, which floors float32 near 70 dB
    return scale_invariant_signal_distortion_ratio(output.double(), reference.double(), zero_mean).mean().item()


def _magnitude(x: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    """(channels, bins, frames) magnitudes, 1 for a sine of full scale.

    Hann window, frames centred, zero-padded at the ends, so that one sample is enough.
    """
    hann = torch.hann_window(window, dtype=torch.float64)
    spectrum = torch.stft(x.double(), n_fft, hop, window, hann, pad_mode="constant", return_complex=True)
    return spectrum.abs() * (2 / hann.sum())


def stft_distance(reference: Tensor, output: Tensor, *, sample_rate: int, resolutions: tuple, floor: float) -> float:
    """Multi-resolution STFT distance (Yamamoto et al. 2020, eq. 4-6).

    Mean over resolutions of ‖|S| − |Ŝ|‖ / ‖|S|‖ + mean |ln max(|S|, floor) − ln max(|Ŝ|, floor)|.
    """
    _loud(reference, "original")
    total = 0.0
    for n_fft, hop, window in resolutions:
        s, t = _magnitude(reference, n_fft, hop, window), _magnitude(output, n_fft, hop, window)
        convergence = (s - t).norm() / s.norm()
        total += (convergence + (s.clamp_min(floor).log() - t.clamp_min(floor).log()).abs().mean()).item()
    return total / len(resolutions)


def frame_length(sample_rate: int, seconds: float) -> int:
    """The smallest power of two of samples that lasts at least `seconds`."""
    return 2 ** math.ceil(math.log2(sample_rate * seconds))


@functools.cache
def _mel_bank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings(action="ignore"):  # bands narrower than a bin at the lowest rates stay empty
        return melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate).double()


def log_mel(x: Tensor, sample_rate: int, frame_seconds: float, n_mels: int, floor: float) -> Tensor:
    """(channels, n_mels, frames) natural logarithm of the mel magnitude spectrogram."""
    n_fft = frame_length(sample_rate, frame_seconds)
    mel = _mel_bank(sample_rate, n_fft, n_mels).T @ _magnitude(x, n_fft, n_fft // 4, n_fft)
    return mel.clamp_min(floor).log()


def mel_distance(
    reference: Tensor, output: Tensor, *, sample_rate: int, frame_seconds: float, n_mels: int, floor: float
) -> float:
    """Mean |ln mel(x) − ln mel(y)| over bands, frames and channels."""
    mel = functools.partial(log_mel, sample_rate=sample_rate, frame_seconds=frame_seconds, n_mels=n_mels, floor=floor)
    return (mel(reference) - mel(output)).abs().mean().item()


def stoi(reference: Tensor, output: Tensor, *, sample_rate: int, extended: bool) -> float:
    """Short-time objective intelligibility (Taal et al. 2011) by pystoi, mean over channels."""
    from pystoi import stoi

    _loud(reference, "original")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # too few frames: the library would return 1e-5
        try:
            scores = [stoi(r.numpy(), o.numpy(), sample_rate, extended) for r, o in zip(reference, output, strict=True)]
        except (RuntimeWarning, ValueError) as error:
            raise Unmeasurable("too little speech for STOI: fewer than 30 frames that are not silent") from error
    return float(sum(scores) / len(scores))


def pesq(reference: Tensor, output: Tensor, *, sample_rate: int, mode: str, rate: int, below: int | None) -> float:
    """PESQ MOS-LQO (ITU-T P.862) by the pesq package, both signals brought to `rate` Hz, mean over channels.

    Has no value for data below `rate`, nor for data of `below` Hz or more, where a wider mode does better.
    """
    from pesq import PesqError, pesq

    from tokenloom.codecs.media import resample

    if sample_rate < rate:
        raise Unmeasurable(f"data at {sample_rate} Hz, below the {rate} Hz of this mode")
    if below is not None and sample_rate >= below:
        raise Unmeasurable(f"data at {sample_rate} Hz; this mode is for less than {below} Hz")
    if reference.shape[-1] < sample_rate // 4:
        raise Unmeasurable("shorter than a quarter of a second")
    _loud(reference, "original"), _loud(output, "reconstruction")
    r, o = resample(reference, sample_rate, rate), resample(output, sample_rate, rate)
    try:
        scores = [pesq(rate, a.numpy(), b.numpy(), mode) for a, b in zip(r, o, strict=True)]
    except PesqError as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise Unmeasurable(f"PESQ: {reason.decode() if isinstance(reason, bytes) else reason}") from error
    return float(sum(scores) / len(scores))


def package_missing(name: str) -> str | None:
    """Why a metric's package cannot be imported, or None."""
    return None if find_spec(name) else f"the package {name} is not installed (pip install 'tokenloom[speech]')"
