"""Files, PIL images and arrays ↔ signals: the one way in and out, and the only resampler.

An image is float32 (3, height, width) in [0, 1], a sound float32 (channels, samples) in [-1, 1],
a text a str: one item each, without the batch axis. Every error is one line that names the source.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .types import MAX_PIXELS, MAX_SAMPLES, Modality

if TYPE_CHECKING:
    from soundfile import SoundFile

Source = str | os.PathLike | bytes | bytearray | memoryview | io.BytesIO | Image.Image | np.ndarray

BLOCK = 65_536
"""Samples per write: libsndfile crashes on one long write of Vorbis."""

_IMAGE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95},
    ".jpeg": {"format": "JPEG", "quality": 95},
    ".webp": {"format": "WEBP", "lossless": True},
    ".avif": {"format": "AVIF", "quality": 90},
    ".jp2": {"format": "JPEG2000"},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
    ".ppm": {"format": "PPM"},
}
_AUDIO_OPTIONS: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
}
IMAGE_SUFFIXES = (*_IMAGE_OPTIONS, ".gif", ".j2k")
AUDIO_SUFFIXES = tuple(_AUDIO_OPTIONS)
TEXT_SUFFIXES = (".txt", ".md")

_IMAGE_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"BM",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
_AUDIO_SIGNATURES = (b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")


def read(
    source: Source,
    modality: Modality | str | None = None,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
) -> Tensor | str:
    """One signal: image float32 (3, height, width) in [0, 1], audio float32 (channels, samples) in [-1, 1], or str.

    source       a path, the bytes of a file, a PIL image, or an array: images (height, width[, 1, 3 or 4])
                 of uint8, uint16 or floats in [0, 1]; sounds (samples,) or (channels, samples) of floats in
                 [-1, 1] or int16
    modality     found from suffix, content or type where None (a float array of one or two axes is a sound)
    sample_rate  Hz; audio files are resampled to it. An array carries no rate and is taken to have this one
    channels     audio is averaged down to one channel or copied to several

    EXIF orientation is applied, palettes and greys become RGB, transparency lies on white, 16 bits keep
    their precision. Raises FileNotFoundError, or ValueError for what is broken, animated, of another
    kind than wanted or larger than MAX_PIXELS or MAX_SAMPLES.
    """
    kind = _infer(source) if modality is None else Modality(modality)
    if isinstance(source, str | os.PathLike):
        _require_file(Path(source), kind)
    if kind is Modality.TEXT:
        return _read_text(source)
    if kind is Modality.IMAGE:
        return _read_image(source)
    waveform, rate = _read_audio(source)
    if channels is not None:
        try:
            waveform = mix(waveform, channels)
        except ValueError as error:
            raise ValueError(f"{_label(source)} has {error}") from error
    if sample_rate is not None and rate is not None:
        waveform = resample(waveform, rate, sample_rate)
    return waveform


def modality(path: str | os.PathLike) -> Modality:
    """What a file is by its suffix; ValueError with the known suffixes otherwise."""
    suffix = Path(path).suffix.lower()
    groups = {Modality.IMAGE: IMAGE_SUFFIXES, Modality.AUDIO: AUDIO_SUFFIXES, Modality.TEXT: TEXT_SUFFIXES}
    for kind, suffixes in groups.items():
        if suffix in suffixes:
            return kind
    known = " ".join(suffix for suffixes in groups.values() for suffix in suffixes)
    raise ValueError(f"{path}: {suffix or 'no suffix'} is none of the known kinds of file ({known})")


def sample_rate(source: str | os.PathLike | bytes | io.BytesIO) -> int:
    """The rate of an audio file, in Hz."""
    if isinstance(source, str | os.PathLike):
        _require_file(Path(source), Modality.AUDIO)
    with _open_audio(_file(source), _label(source)) as file:
        return file.samplerate


def resample(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """(..., n) at source_rate Hz → (..., ceil(n * target_rate / source_rate)) at target_rate, clamped to [-1, 1].

    Band-limited, linear phase: soxr at its highest quality. Equal rates give the waveform back.
    """
    if source_rate == target_rate:
        return waveform
    import soxr

    *leading, n = waveform.shape
    wanted = -(-n * target_rate // source_rate)
    # a few zeros at the end: soxr rounds its length, and would miss the last sample
    padded = torch.nn.functional.pad(waveform.reshape(-1, n), (0, 2 + source_rate // target_rate))
    out = soxr.resample(padded.T.contiguous().numpy(), source_rate, target_rate, quality="VHQ")
    return torch.from_numpy(out[:wanted].T.copy()).reshape(*leading, wanted).clamp(-1, 1)


def mix(waveform: Tensor, channels: int) -> Tensor:
    """(any, samples) → (channels, samples): the mean for one channel, one channel repeated; else ValueError."""
    if channels == waveform.shape[0]:
        return waveform
    if channels == 1:
        return waveform.mean(0, keepdim=True)
    if waveform.shape[0] == 1:
        return waveform.expand(channels, -1).contiguous()
    raise ValueError(f"{waveform.shape[0]} channels, which make 1 channel but not {channels}")


def convert(waveform: Tensor, source_rate: int, target_rate: int, channels: int) -> Tensor:
    """`mix`, then `resample`: a waveform as a codec of that rate and those channels takes it."""
    return resample(mix(waveform, channels), source_rate, target_rate)


def to_uint8(image: Tensor) -> Tensor:
    """Values in [0, 1] → uint8, to the nearest of 256 levels: the one place where 8-bit rounding happens."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def to_int16(waveform: Tensor) -> Tensor:
    """Values in [-1, 1] → int16, to the nearest level, a step of 2**-15; 1.0 becomes 32,767."""
    return (waveform * 32768).round().clamp(-32768, 32767).to(torch.int16)


def write(signal: Tensor | str, path: str | os.PathLike, *, sample_rate: int | None = None) -> None:
    """One signal, as `read` gives it, to a file of the kind that the suffix names.

    Images are rounded to 8 bits; JPEG has quality 95, WebP is lossless. Sounds need their
    `sample_rate` in Hz; WAV, FLAC, AIFF, AU and CAF have 16 bits. The file appears whole or not at all.
    Raises ValueError on an unknown suffix, a signal of another kind, NaN, or values out of range.
    """
    path = Path(path)
    kind = modality(path)
    if isinstance(signal, str) != (kind is Modality.TEXT):
        raise ValueError(f"{path} is a file for {kind}, and the signal is {_describe(signal)}")
    if kind is Modality.TEXT:
        data = signal.encode("utf-8")
    elif kind is Modality.IMAGE:
        data = _image_bytes(signal, path)
    else:
        data = _sound_bytes(signal, path, sample_rate)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    write_bytes(data, path)


def write_bytes(data: bytes, path: Path) -> None:
    """A file, whole or not at all: what was there stays until the new one is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def encode_audio(waveform: Tensor, rate: int, **options: Any) -> bytes:
    """float32 (channels, samples) → the bytes of an audio file; `options` are those of soundfile.SoundFile."""
    import soundfile

    signal = to_int16(waveform) if options.get("subtype") == "PCM_16" else waveform
    frames = np.ascontiguousarray(signal.cpu().numpy().T)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, frames.shape[1], **options) as file:
        for start in range(0, len(frames), BLOCK):
            file.write(frames[start : start + BLOCK])
    return buffer.getvalue()


def decode_audio(file: SoundFile, limit: int = MAX_SAMPLES) -> Tensor:
    """All of an open file, float32 (channels, samples); ValueError where it says it has more than `limit` samples.

    One call: soundfile seeks after each, and MP3s with a bit reservoir play wrong behind a seek.
    What a header promises beyond what is there is reserved, but never touched.
    """
    if file.frames > limit:
        raise ValueError(f"it has {file.frames} samples per channel, and {limit} is the most")
    return torch.from_numpy(np.ascontiguousarray(file.read(dtype="float32", always_2d=True).T))


# -- sources ----------------------------------------------------------------------------------


def _infer(source: Source) -> Modality:
    if isinstance(source, Image.Image):
        return Modality.IMAGE
    if isinstance(source, np.ndarray):
        sound = source.ndim <= 2 and (source.dtype.kind == "f" or source.dtype == np.int16)
        return Modality.AUDIO if sound else Modality.IMAGE
    if isinstance(source, str | os.PathLike):
        return modality(source)
    head = _file(source).read(16)
    if head.startswith(b"RIFF"):
        return Modality.IMAGE if head[8:12] == b"WEBP" else Modality.AUDIO
    if head.startswith(_IMAGE_SIGNATURES) or head[4:8] == b"ftyp":
        return Modality.IMAGE
    return Modality.AUDIO if head.startswith(_AUDIO_SIGNATURES) else Modality.TEXT


def _require_file(path: Path, kind: Modality) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; wanted a file with {_NOUN[kind]}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; wanted one with {_NOUN[kind]}")


def _file(source: Any) -> str | BinaryIO:
    """What Pillow and soundfile open: a path, or a fresh file over the bytes."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, io.BytesIO):
        return io.BytesIO(source.getvalue())
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    raise ValueError(f"cannot read from {_describe(source)}; wanted a path, bytes, a PIL image or an array")


def _label(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return {Image.Image: "the PIL image", np.ndarray: "the array"}.get(type(source), f"the {type(source).__name__}")


def _describe(signal: Any) -> str:
    if isinstance(signal, Tensor | np.ndarray):
        return f"a {str(signal.dtype).removeprefix('torch.')} array of shape {tuple(signal.shape)}"
    return f"a {type(signal).__name__}"


_NOUN = {Modality.IMAGE: "a picture", Modality.AUDIO: "a sound", Modality.TEXT: "UTF-8 text"}


@contextmanager
def _refusing(label: str, kind: Modality) -> Iterator[None]:
    """Damaged files make the libraries raise a dozen types; they mean one thing."""
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{label} cannot be read as {_NOUN[kind]}: {reason}") from error


def _read_text(source: Source) -> str:
    with _refusing(_label(source), Modality.TEXT):
        if isinstance(source, str | os.PathLike):
            return Path(source).read_bytes().decode("utf-8")
        return _file(source).read().decode("utf-8")


# -- images -----------------------------------------------------------------------------------


def _read_image(source: Source) -> Tensor:
    label = _label(source)
    if isinstance(source, np.ndarray):
        return _image_of_array(source, label)
    with _refusing(label, Modality.IMAGE), warnings.catch_warnings(), ExitStack() as files:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
        if not isinstance(source, Image.Image):
            source = files.enter_context(Image.open(_file(source)))
        return _image_of_pil(source, label)


def _image_of_pil(image: Image.Image, label: str) -> Tensor:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, and {MAX_PIXELS} is the most")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: photographs of two lenses
        raise ValueError(f"it is animated ({image.n_frames} frames); wanted a still picture")
    image = ImageOps.exif_transpose(image)
    return _image_of_array(_pixels(image), label)


def _pixels(image: Image.Image) -> np.ndarray:
    """(height, width, 3 or 4) uint8, or (height, width) uint16 or floats where 8 bits would not do."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"its values reach from {array.min()} to {array.max()}; wanted 0 to 65535")
        return array.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _image_of_array(array: np.ndarray, label: str) -> Tensor:
    scale = {"uint8": 255, "uint16": 65535, "float32": 1, "float64": 1, "float16": 1}.get(array.dtype.name)
    grey = array.ndim == 2
    if scale is None or not (grey or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or not array.size:
        raise ValueError(
            f"{label} is {_describe(array)}; an image is (height, width[, 1, 3 or 4]) of uint8, uint16 or floats"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ValueError(f"{label} has {array.shape[1]} x {array.shape[0]} pixels, and {MAX_PIXELS} is the most")
    pixels = torch.from_numpy(np.array(array, np.float32)) / scale
    if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"{label} has values outside [0, 1]; float images reach from 0 to 1")
    pixels = pixels[None] if grey else pixels.permute(2, 0, 1)
    if pixels.shape[0] == 4:
        pixels, alpha = pixels[:3], pixels[3:]
        pixels = pixels * alpha + (1 - alpha)
    return pixels.expand(3, -1, -1).contiguous()


def _image_bytes(image: Tensor, path: Path) -> bytes:
    if path.suffix.lower() not in _IMAGE_OPTIONS:
        raise ValueError(f"{path}: pictures are written as {' '.join(_IMAGE_OPTIONS)}")
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not image.is_floating_point():
        raise ValueError(f"{path}: an image is floats (3, height, width), and this is {_describe(image)}")
    _require_range(image, 0, path)
    pixels = Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())
    buffer = io.BytesIO()
    try:
        pixels.save(buffer, **_IMAGE_OPTIONS[path.suffix.lower()])
    except (OSError, ValueError) as error:  # a side too long for the format
        raise ValueError(f"{path}: {pixels.width} x {pixels.height} pixels cannot be written: {error}") from error
    return buffer.getvalue()


def _require_range(signal: Tensor, low: int, path: Path) -> None:
    if not signal.isfinite().all():
        raise ValueError(f"{path}: the signal holds NaN or infinity")
    if signal.min() < low or signal.max() > 1:
        raise ValueError(f"{path}: values from {signal.min():.4g} to {signal.max():.4g}; wanted {low} to 1")


# -- sounds -----------------------------------------------------------------------------------


@contextmanager
def _open_audio(file: str | BinaryIO, label: str) -> Iterator[SoundFile]:
    import soundfile

    with _refusing(label, Modality.AUDIO), soundfile.SoundFile(file) as opened:
        yield opened


def _read_audio(source: Source) -> tuple[Tensor, int | None]:
    label = _label(source)
    if isinstance(source, np.ndarray):
        scale = 32768 if source.dtype == np.int16 else 1
        if source.ndim not in (1, 2) or not source.size or (source.dtype.kind != "f" and scale == 1):
            raise ValueError(f"{label} is {_describe(source)}; a sound is ([channels,] samples) of floats or int16")
        waveform = torch.from_numpy(np.atleast_2d(source).astype(np.float32) / np.float32(scale))
        if not (waveform.isfinite().all() and waveform.abs().max() <= 1):
            raise ValueError(f"{label} has values outside [-1, 1]")
        return waveform, None
    with _open_audio(_file(source), label) as file:
        waveform, rate = decode_audio(file), file.samplerate
        if not waveform.numel():
            raise ValueError("it holds no samples")
        if not waveform.isfinite().all():
            raise ValueError("it holds NaN or infinity")
    return waveform.clamp(-1, 1), rate


def _sound_bytes(waveform: Tensor, path: Path, rate: int | None) -> bytes:
    if rate is None:
        raise ValueError(f"{path}: writing a sound needs its sample_rate")
    if waveform.ndim != 2 or not waveform.numel() or not waveform.is_floating_point():
        raise ValueError(f"{path}: a sound is floats (channels, samples), and this is {_describe(waveform)}")
    _require_range(waveform, -1, path)
    container, subtype = _AUDIO_OPTIONS[path.suffix.lower()]
    try:
        return encode_audio(waveform.float(), rate, format=container, subtype=subtype)
    except Exception as error:  # libsndfile's own type, for rates and channel counts that a format lacks
        raise ValueError(
            f"{path}: {waveform.shape[0]} channels at {rate} Hz cannot be written as {subtype}: {error}"
        ) from error
