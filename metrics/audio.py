"""Audio metrics. Both waveforms are float32 (channels, samples) in [-1, 1] at one sample rate, in Hz."""

from __future__ import annotations

import functools
import math
import warnings

import torch
from torch import Tensor

from tokenloom import lazy

from .errors import Unmeasurable

torchaudio = lazy.load("torchaudio", "eval")
torchmetrics = lazy.load("torchmetrics", "eval")

SILENCE = 1e-8
"""Mean power below which a waveform counts as silent: -80 dB."""


def check_not_silent(reference: Tensor, output: Tensor | None = None) -> None:
    """Raise Unmeasurable if the original or the reconstruction is silent."""
    for name, x in (("original", reference), ("reconstruction", output)):
        if x is not None and x.square().mean() < SILENCE:
            raise Unmeasurable(f"the {name} is silent")


# -- waveforms ------------------------------------------------------------------------------------


def si_sdr(reference: Tensor, output: Tensor, *, sample_rate: int | None = None, zero_mean: bool = False) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), averaged over channels.

    Identical waveforms give inf. `sample_rate` is not used.
    """
    check_not_silent(reference, output)
    if torch.equal(reference, output):
        return math.inf
    ratio = torchmetrics.functional.audio.scale_invariant_signal_distortion_ratio
    # float64: the library adds eps to both energies, which floors float32 near 70 dB
    return ratio(output.cpu().double(), reference.cpu().double(), zero_mean).mean().item()


# -- spectra --------------------------------------------------------------------------------------


def magnitude(x: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    """Return the magnitude spectrogram, float64 (channels, bins, frames) on the CPU. A full-scale sine has magnitude 1.

    The window is a Hann window. Frames are centered, with zeros beyond both ends, so any length is valid.
    """
    hann = torch.hann_window(window, dtype=torch.float64)
    spectrum = torch.stft(x.cpu().double(), n_fft, hop, window, hann, pad_mode="constant", return_complex=True)
    return spectrum.abs() * (2 / hann.sum())


def stft_distance(reference: Tensor, output: Tensor, *, sample_rate: int, resolutions: tuple, floor: float) -> float:
    """Return the multi-resolution STFT distance (Yamamoto et al. 2020, eq. 4-6).

    It is the mean over resolutions of ‖|S| − |Ŝ|‖ / ‖|S|‖ + mean |ln max(|S|, floor) − ln max(|Ŝ|, floor)|.
    A resolution is (FFT size, hop, window length) in samples. `sample_rate` is not used.
    """
    check_not_silent(reference)
    total = 0.0
    for n_fft, hop, window in resolutions:
        s, t = magnitude(reference, n_fft, hop, window), magnitude(output, n_fft, hop, window)
        convergence = (s - t).norm() / s.norm()
        total += (convergence + (s.clamp_min(floor).log() - t.clamp_min(floor).log()).abs().mean()).item()
    return total / len(resolutions)


def log_spectral_distance(
    reference: Tensor, output: Tensor, *, sample_rate: int, frame_seconds: float, floor: float
) -> float:
    """Return the log-spectral distance in dB (Gray and Markel 1976): the root mean square over frequencies of
    20 log10(|S| / |Ŝ|), averaged over frames and channels.

    Magnitudes below `floor` of full scale count as `floor`. `frame_length` gives the length of a frame; the hop is a
    quarter of it.
    """
    check_not_silent(reference)
    n_fft = frame_length(sample_rate, frame_seconds)
    s, t = (magnitude(wave, n_fft, n_fft // 4, n_fft).clamp_min(floor).log10() for wave in (reference, output))
    return (20 * (s - t)).square().mean(1).sqrt().mean().item()


def frame_length(sample_rate: int, seconds: float) -> int:
    """Return the smallest power of two of samples that lasts at least `seconds`."""
    return 2 ** math.ceil(math.log2(sample_rate * seconds))


@functools.cache
def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Return triangular filters on the HTK mel scale from 0 to half the sample rate, float32 (n_mels, bins)."""
    with warnings.catch_warnings(action="ignore"):  # at low rates, bands narrower than a bin stay empty
        return torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate).T


def log_mel(x: Tensor, sample_rate: int, frame_seconds: float, n_mels: int, floor: float) -> Tensor:
    """Return the natural logarithm of the mel magnitude spectrogram, float64 (channels, n_mels, frames).

    `frame_length` gives the length of a frame; the hop is a quarter of it.
    """
    n_fft = frame_length(sample_rate, frame_seconds)
    mel = mel_filters(sample_rate, n_fft, n_mels).double() @ magnitude(x, n_fft, n_fft // 4, n_fft)
    return mel.clamp_min(floor).log()


def mel_distance(
    reference: Tensor, output: Tensor, *, sample_rate: int, frame_seconds: float, n_mels: int, floor: float
) -> float:
    """Return the mean of |ln mel(x) − ln mel(y)| over bands, frames and channels; see `log_mel`."""
    x, y = (log_mel(wave, sample_rate, frame_seconds, n_mels, floor) for wave in (reference, output))
    return (x - y).abs().mean().item()
