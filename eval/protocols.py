"""Protocols: the exact definition of every metric. A protocol with other settings gets another name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from tokenloom import errors
from tokenloom.codecs.types import Modality
from tokenloom.metrics import audio, distribution, features, image, speech, text
from tokenloom.metrics.errors import Unmeasurable, missing_package
from tokenloom.metrics.registry import registered
from tokenloom.metrics.speech.recognizers import Recognizer

from . import judges
from .metric import Metric, Protocol

AVERAGING = "mean over the items of the set, each item at its own size; failed items are counted, not imputed"
KODAK = 24
"""Number of pictures in the Kodak set."""
WINDOW = {"window": 11, "sigma": 1.5}


def _kid(space: str, definition: str) -> Metric:
    """Return the kernel distance between sets in features that need no weights."""
    return Metric("kid", f"KID ({space})", "", False, f"{distribution.DISTANCE}. Features: {definition}",
                  distribution.KernelDistance, {"features": space, "minimum": 8}, set_level=True)  # fmt: skip


def _image(
    name: str, about: str, rounding: str, space: str, perceptual: bool = True, more: tuple[Metric, ...] = ()
) -> Protocol:
    how = {"rounding": rounding, "space": space}
    metrics = [
        Metric("psnr", "PSNR", "dB", True, "10 log10(1 / MSE), MSE over channels and pixels; identical images have "
               "no finite value: they are counted as perfect and left out of the mean", image.psnr, how),
        Metric("ssim", "SSIM", "", True, "Gaussian window, data range 1, border 'valid' (no padding), K = (.01, .03), "
               "mean over channels; pytorch-msssim", image.ssim, {**how, **WINDOW}),
        Metric("ms_ssim", "MS-SSIM", "", True, "5 scales, weights of Wang et al. 2003, otherwise as SSIM; no value if "
               "a side has 160 pixels or fewer; pytorch-msssim", image.ms_ssim, {**how, **WINDOW}),
    ]  # fmt: skip
    if perceptual:
        metrics += [
            Metric("lpips", "LPIPS", "", False, "version 0.1, linear weights of the lpips package, input scaled to "
                   "[-1, 1], no resizing", image.lpips, {**how, "backbone": "alex"},
                   missing=partial(image.lpips_missing, "alex")),
            Metric("rfid", "rFID", "", False, "Inception-v3 pool3 features (the weights of torch-fidelity), images "
                   "resized to 299 by torchmetrics, references not cropped", distribution.FrechetInception,
                   {**how, "minimum": 2048}, set_level=True, missing=distribution.rfid_missing),
            _kid("block DCT", features.BLOCK_DCT),
        ]  # fmt: skip
    metrics += more
    common = {
        "range": "[0, 1], reconstruction clamped",
        "rounding": "both images rounded to 8 bits first" if rounding == "8 bit" else "none",
        "colour": "RGB, all three channels" if space == "RGB" else "luma of ITU-R BT.601",
        "resizing": "none",
        "averaging": AVERAGING,
    }
    return Protocol(name, Modality.IMAGE, about, common, tuple(metrics))


def _kodak() -> Protocol:
    """Return the protocol of the results that CompressAI publishes for the Kodak set."""
    about = "the 24 pictures of the Kodak set, as CompressAI publishes results: PSNR and MS-SSIM of 8-bit RGB"
    known = _image("kodak", about, "8 bit", "RGB", perceptual=False)
    common = dict(known.common) | {
        "pictures": f"the {KODAK} of the Kodak set, 768x512 or 512x768; the figures of other pictures are those of "
        "another set",
        "averaging": "mean over the pictures of the value of each: not the PSNR of the mean error, nor dB of MS-SSIM",
        "rate": "coded; CompressAI counts the file or bitstream without a container, as the nominal rate of classical "
        "codecs does",
    }
    metrics = tuple(metric for metric in known.metrics if metric.name in ("psnr", "ms_ssim"))
    return replace(known, common=common, metrics=metrics)


AUDIO = (
    Metric("mel", "Mel distance", "", False, "mean |ln M(x) - ln M(y)|, M = mel magnitude spectrogram (HTK scale, 0 to "
           "half the sample rate, Hann, n_fft = the smallest power of two that lasts frame_seconds, hop = n_fft / 4), "
           "scaled so that a sine of full scale has 1, floored", audio.mel_distance,
           {"frame_seconds": 0.032, "n_mels": 64, "floor": 1e-4}),
    Metric("stft", "STFT distance", "", False, "multi-resolution: spectral convergence + mean |ln|S| - ln|S'||, scaled "
           "so that a sine of full scale has 1, floored, mean over (n_fft, hop, window) in samples",
           audio.stft_distance, {"resolutions": ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)), "floor": 1e-5}),
    Metric("si_sdr", "SI-SDR", "dB", True, "scale-invariant signal-to-distortion ratio, mean over channels; identical "
           "signals are counted as perfect and left out of the mean; torchmetrics", audio.si_sdr, {"zero_mean": False}),
    Metric("stoi", "STOI", "", True, "short-time objective intelligibility, a measure of speech, mean over channels; "
           "pystoi", speech.stoi, {"extended": False}, missing=partial(missing_package, "pystoi", "speech")),
    Metric("pesq_wb", "PESQ-WB", "MOS", True, "ITU-T P.862.2, a measure of speech, both signals resampled to 16 kHz, "
           "mean over channels; pesq", speech.pesq, {"mode": "wb", "rate": 16000, "below": None},
           missing=partial(missing_package, "pesq", "speech")),
    Metric("pesq_nb", "PESQ-NB", "MOS", True, "ITU-T P.862.1, a measure of speech, for data below 16 kHz, both "
           "signals resampled to 8 kHz, mean over channels; pesq", speech.pesq,
           {"mode": "nb", "rate": 8000, "below": 16000}, missing=partial(missing_package, "pesq", "speech")),
    _kid("mel statistics", features.MEL_STATISTICS),
)  # fmt: skip


def _audio(name: str, about: str, metrics: tuple[Metric, ...]) -> Protocol:
    common = {
        "range": "[-1, 1], reconstruction clamped",
        "resampling": "codecs.media.resample (soxr), so a codec's band limit counts against it",
        "channels": "mono codecs get the mean of the channels; their output is repeated",
        "length": "exactly the original's",
        "averaging": AVERAGING,
    }
    return Protocol(name, Modality.AUDIO, about, common, metrics)


EXACT = Protocol(
    "exact",
    Modality.TEXT,
    "whether the text comes back byte for byte",
    {"averaging": AVERAGING},
    (Metric("exact", "Exact round trips", "", True, "share of texts that decode to the original", text.exact),),
)

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        _image("rgb8", "images as displayed: three channels of 8 bits", "8 bit", "RGB"),
        _image("rgb-float", "no rounding, as many codec papers report", "none", "RGB"),
        _image("luma8", "luma only, as the classical literature reports", "8 bit", "Y", perceptual=False),
        _kodak(),
        _image("perceptual", "as rgb8, with judges that follow what people see; slow", "8 bit", "RGB",
               more=judges.IMAGE),
        _audio("waveform", "at the sample rate and channels of the data; a codec's output is converted back to them",
               AUDIO),
        _audio("speech", "as waveform, with judges of speech; slow", (*AUDIO, *judges.SPEECH)),
        _audio("music", "as waveform without measures of speech, with judges of any sound; slow",
               (*(m for m in AUDIO if m.function not in (speech.stoi, speech.pesq)), *judges.MUSIC)),
        EXACT,
    )
}  # fmt: skip

DEFAULT = ("rgb8", "waveform", "exact")

TOKENS = {
    "usage": "entries of a codebook used at least once by the whole set / its size, per quantizer",
    "perplexity": "exp of the entropy of the whole set's codes (natural logarithm), per quantizer",
    "idempotence": "share of tokens equal after encode(decode(codes)), mean over items; if lengths vary, equal "
    "positions / the longer length; not measured for codecs whose tokens are the bytes of a file",
}
"""Definitions of the metrics of codes."""

RATES = {
    "nominal": "positions x the sum over quantizers of log2 codebook size, side information included; for classical "
    "codecs the bytes of their native file x 8",
    "entropy": "cross-entropy of the codes under counts of the codec's training split, order 0, per quantizer; absent "
    "for codecs without such counts",
    "coded": "bytes of the container that compress writes x 8, everything included",
}
"""Definitions of the rates."""


def protocol(name: str, recognizer: Recognizer | None = None) -> Protocol:
    """Return a protocol by name, with the user's own metrics, and with a recognizer of speech where it has one.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in PROTOCOLS:
        raise ValueError(errors.unknown("protocol", name, PROTOCOLS))
    known = PROTOCOLS[name]
    if recognizer:
        known = replace(known, metrics=tuple(judges.heard_by(recognizer, metric) for metric in known.metrics))
    how = {key: v for key, v in known.metrics[0].settings.items() if key in ("rounding", "space")}
    own = []
    for key, (function, about) in registered(known.modality).items():
        if key in {metric.name for metric in known.metrics}:
            raise ValueError(f"metric {known.modality}/{key} is built in; register it by another name")
        compute = partial(_own, function)
        own.append(Metric(key, about.label, about.unit, about.higher, about.definition, compute, how))
    return replace(known, metrics=(*known.metrics, *own))


def _own(function: Any, reference: Any, output: Any, *, sample_rate: int | None = None, **how: str) -> float:
    """Return a metric of the user's own. Images are rounded and converted as the protocol says."""
    signals = [image.prepare(signal, **how)[0] if how else signal for signal in (reference, output)]
    try:
        return float(function(*signals, **({} if sample_rate is None else {"sample_rate": sample_rate})))
    except Exception as error:  # the code of a third party can raise anything
        raise Unmeasurable(str(error) if isinstance(error, Unmeasurable) else errors.describe(error)) from error
