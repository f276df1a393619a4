"""Read and write one signal of any modality."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from tokenloom import files

from ..types import Modality
from ..validate import require_integer
from . import audio, images
from .sources import NOUNS, Source, content, describe, label, refusing, require_file
from .text import decode_text

TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = {
    Modality.IMAGE: images.IMAGE_SUFFIXES, Modality.AUDIO: audio.AUDIO_SUFFIXES, Modality.TEXT: TEXT_SUFFIXES,
}  # fmt: skip


def read(
    source: Source,
    modality: Modality | str | None = None,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
) -> Tensor | str:
    """Read one signal.

    Images become RGB in sRGB: EXIF orientation and color profiles are applied, colors outside sRGB are clipped, and
    transparent pixels are composed over white, by their sRGB values. 16-bit color keeps its precision. Texts are UTF-8,
    or UTF-16 or UTF-32 with a byte-order mark, which is left out.

    Audio is read to its end, also if the header does not state the length. Floats beyond ±1 are scaled down to a peak
    of 1; floats on the scale of integers are refused. Lossy formats overshoot a little: they are clipped.

    What is lost or changed is a warning: bits beyond 8 that cannot be read, damaged metadata, a color profile that
    cannot be applied, floats that are scaled, a file that is cut, and each resampling and down-mix.

    Args:
        source: A path, the bytes of a file, a PIL image, or an array: images (height, width[, 1, 3 or 4]) of uint8,
            uint16 or floats in [0, 1]; audio (samples,) or (channels, samples) of floats in [-1, 1] or int16.
        modality: None to infer it from suffix, content or type. A float array of one or two axes is audio.
        sample_rate: In Hz. Audio files are resampled to it; arrays must have it already.
        channels: Number of audio channels. Audio is averaged down to one channel, or one channel is repeated.

    Returns:
        An image, float32 (3, height, width) in [0, 1]; audio, float32 (channels, samples) in [-1, 1]; or a str.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the source is damaged, animated, of another modality, or larger than MAX_PIXELS or MAX_SAMPLES.
    """
    kind = _infer(source) if modality is None else Modality(modality)
    for name, value, most in (("sample_rate", sample_rate, 2**31 - 1), ("channels", channels, 1024)):
        if value is not None:
            require_integer(name, int(value) if isinstance(value, np.integer) else value, 1, most)
    if isinstance(source, str | os.PathLike):
        require_file(Path(source), kind)
    if kind is Modality.TEXT:
        with refusing(label(source), kind):
            return decode_text(content(source))
    if kind is Modality.IMAGE:
        return images.read_image(source)
    waveform, rate = audio.read_audio(source)
    target = rate or sample_rate or 1  # an array has the rate that is asked for
    try:
        wanted = len(waveform) if channels is None else channels
        return audio.convert(waveform, target, sample_rate or target, wanted, label(source))
    except ValueError as error:
        raise ValueError(f"{label(source)}: {error}") from error


def write(signal: Tensor | str, path: str | os.PathLike, *, sample_rate: int | None = None) -> None:
    """Write one signal to a file, atomically. The suffix selects the format.

    Images are rounded to 8 bits, with a warning if they hold 16-bit color; JPEG has quality 95, WebP is lossless. WAV,
    FLAC, AIFF, AU and CAF have 16 bits.

    Args:
        signal: An image, a waveform or a str, in the form that `read` returns.
        path: Path of the file. Its folder must exist.
        sample_rate: In Hz; required for audio.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is unknown or of another modality, or if values are NaN or out of range.
    """
    path = Path(path)
    data = to_bytes(signal, path, sample_rate=sample_rate)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    files.write(path, data)


def to_bytes(signal: Tensor | str, path: str | os.PathLike, *, sample_rate: int | None = None) -> bytes:
    """Return the bytes that `write` writes to `path`, whose suffix selects the format. Raises its ValueError."""
    path = Path(path)
    kind = modality(path)
    if isinstance(signal, str) != (kind is Modality.TEXT):
        raise ValueError(f"{path}: a {path.suffix.lower()} file must hold {NOUNS[kind]}, got {describe(signal)}")
    if isinstance(signal, str):
        return signal.encode("utf-8")
    return images.image_file(signal, path) if kind is Modality.IMAGE else audio.audio_file(signal, path, sample_rate)


def modality(path: str | os.PathLike) -> Modality:
    """Return the modality of a file's suffix. Raises ValueError for an unknown suffix."""
    suffix = Path(path).suffix.lower()
    for kind, suffixes in SUFFIXES.items():
        if suffix in suffixes:
            return kind
    usual = " ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes[:4])
    raise ValueError(f"{path}: the suffix must be one of {usual} or others of these kinds, got {suffix or 'none'}")


def sample_rate(source: str | os.PathLike | bytes | io.BytesIO) -> int:
    """Return the sample rate of an audio file in Hz."""
    if isinstance(source, str | os.PathLike):
        require_file(Path(source), Modality.AUDIO)
    return audio.read_header(source).sample_rate


def _infer(source: Source) -> Modality:
    """Infer the modality of a source from its type, suffix or first bytes."""
    if isinstance(source, Image.Image):
        return Modality.IMAGE
    if isinstance(source, np.ndarray):
        waveform = source.ndim <= 2 and (source.dtype.kind == "f" or source.dtype == np.int16)
        return Modality.AUDIO if waveform else Modality.IMAGE
    if isinstance(source, str | os.PathLike):
        return modality(source)
    head = content(source)[:16]
    if head.startswith(b"RIFF"):
        return Modality.IMAGE if head[8:12] == b"WEBP" else Modality.AUDIO
    if head.startswith(images.SIGNATURES) or head[4:8] == b"ftyp":
        return Modality.IMAGE
    return Modality.AUDIO if head.startswith(audio.SIGNATURES) else Modality.TEXT
