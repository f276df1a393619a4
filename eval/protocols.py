"""The protocols by name: what exactly each figure is. Change a setting, and it needs another name."""

from __future__ import annotations

from functools import partial

from tokenloom.codecs.types import Modality
from tokenloom.metrics import audio as sounds
from tokenloom.metrics import distribution as kernel
from tokenloom.metrics import image as images

from .metric import Metric, Protocol

AVERAGING = "mean over the items of the set, each item at its own size; failed items are counted, not imputed"
WINDOW = {"window": 11, "sigma": 1.5}


def _kid(features: str, definition: str) -> Metric:
    """The kernel distance of a set, in features that come with no weights."""
    return Metric("kid", f"KID ({features})", "", False, f"{kernel.DISTANCE}. Features: {definition}",
                  kernel.KernelDistance, {"features": features, "minimum": 8}, set_level=True)  # fmt: skip


def _image(name: str, about: str, rounding: str, space: str, perceptual: bool = True) -> Protocol:
    how = {"rounding": rounding, "space": space}
    metrics = [
        Metric("psnr", "PSNR", "dB", True, "10 log10(1 / MSE), MSE over channels and pixels; identical pictures have "
               "no finite value and are counted as perfect, outside the mean", images.psnr, how),
        Metric("ssim", "SSIM", "", True, "Gaussian window, data range 1, border 'valid' (no padding), K = (.01, .03), "
               "mean over channels; pytorch-msssim", images.ssim, {**how, **WINDOW}),
        Metric("ms_ssim", "MS-SSIM", "", True, "5 scales, weights of Wang et al. 2003, otherwise as SSIM; absent where "
               "a side has 160 pixels or fewer; pytorch-msssim", images.ms_ssim, {**how, **WINDOW}),
    ]  # fmt: skip
    if perceptual:
        metrics += [
            Metric("lpips", "LPIPS", "", False, "version 0.1, linear weights of the lpips package, input scaled to "
                   "[-1, 1], no resizing", images.lpips, {**how, "backbone": "alex"},
                   missing=partial(images.lpips_missing, "alex")),
            Metric("rfid", "rFID", "", False, "Inception-v3 pool3 features (the weights of torch-fidelity), pictures "
                   "resized to 299 by torchmetrics, references not cropped", images.FrechetInception,
                   {**how, "minimum": 2048}, set_level=True, missing=images.rfid_missing),
            _kid("block DCT", kernel.BLOCK_DCT),
        ]  # fmt: skip
    common = {
        "range": "[0, 1], reconstruction clamped",
        "rounding": "both pictures rounded to 8 bits first" if rounding == "8 bit" else "none",
        "colour": "RGB, all three channels" if space == "RGB" else "luma of ITU-R BT.601",
        "resizing": "none",
        "averaging": AVERAGING,
    }
    return Protocol(name, Modality.IMAGE, about, common, tuple(metrics))


AUDIO = (
    Metric("mel", "Mel distance", "", False, "mean |ln M(x) - ln M(y)|, M = mel magnitude spectrogram (HTK scale, 0 to "
           "half the sample rate, Hann, n_fft = the smallest power of two that lasts frame_seconds, hop = n_fft / 4), "
           "scaled so that a sine of full scale has 1, floored", sounds.mel_distance,
           {"frame_seconds": 0.032, "n_mels": 64, "floor": 1e-4}),
    Metric("stft", "STFT distance", "", False, "multi-resolution: spectral convergence + mean |ln|S| - ln|S'||, scaled "
           "so that a sine of full scale has 1, floored, mean over (n_fft, hop, window) in samples",
           sounds.stft_distance, {"resolutions": ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)), "floor": 1e-5}),
    Metric("si_sdr", "SI-SDR", "dB", True, "scale-invariant signal-to-distortion ratio, mean over channels; identical "
           "signals are counted as perfect, outside the mean; torchmetrics", sounds.si_sdr, {"zero_mean": False}),
    Metric("stoi", "STOI", "", True, "short-time objective intelligibility, a measure of speech, mean over channels; "
           "pystoi", sounds.stoi, {"extended": False}, missing=partial(sounds.package_missing, "pystoi")),
    Metric("pesq_wb", "PESQ-WB", "MOS", True, "ITU-T P.862.2, a measure of speech, both signals resampled to 16 kHz, "
           "mean over channels; pesq", sounds.pesq, {"mode": "wb", "rate": 16000, "below": None},
           missing=partial(sounds.package_missing, "pesq")),
    Metric("pesq_nb", "PESQ-NB", "MOS", True, "ITU-T P.862.1, a measure of speech, for data below 16 kHz, both "
           "signals resampled to 8 kHz, mean over channels; pesq", sounds.pesq,
           {"mode": "nb", "rate": 8000, "below": 16000},
           missing=partial(sounds.package_missing, "pesq")),
    _kid("mel statistics", kernel.MEL_STATISTICS),
)  # fmt: skip


def round_trip(reference: str, output: str) -> float:
    """1 where the text came back unchanged, else 0."""
    return float(reference == output)


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        _image("rgb8", "pictures as people see them: three channels of 8 bits", "8 bit", "RGB"),
        _image("rgb-float", "no rounding: what many codec papers report", "none", "RGB"),
        _image("luma8", "the brightness alone, as the classical literature reports", "8 bit", "Y", perceptual=False),
        Protocol(
            "waveform",
            Modality.AUDIO,
            "the reference keeps the data's sample rate and channels; a codec's output is brought back to them",
            {
                "range": "[-1, 1], reconstruction clamped",
                "resampling": "codecs.media.resample (soxr), so a codec's band limit counts against it",
                "channels": "mono codecs get the mean of the channels, their output is repeated",
                "length": "exactly the original's",
                "averaging": AVERAGING,
            },
            AUDIO,
        ),
        Protocol(
            "exact",
            Modality.TEXT,
            "does the text come back, byte for byte",
            {"averaging": AVERAGING},
            (Metric("exact", "Exact round trips", "", True, "share of texts decoded to what they were", round_trip),),
        ),
    )
}

DEFAULT = ("rgb8", "waveform", "exact")

TOKENS = {
    "usage": "entries of a codebook used at least once by the whole set / its size, per quantizer",
    "perplexity": "exp of the entropy of the whole set's codes (natural logarithm), per quantizer",
    "idempotence": "share of tokens equal after encode(decode(codes)), mean over items; where lengths vary, equal "
    "positions / the longer length; absent for codecs whose tokens are the bytes of a file",
}

RATES = {
    "nominal": "positions x the sum over quantizers of log2 codebook size, side information included; for classical "
    "codecs the bytes of their native file x 8",
    "entropy": "cross-entropy of the codes under counts of the codec's training split, order 0, per quantizer; absent "
    "for codecs without such counts",
    "coded": "bytes of the container that compress writes x 8, everything included",
}


def protocol(name: str) -> Protocol:
    """The protocol called `name`; ValueError with the known names otherwise."""
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
