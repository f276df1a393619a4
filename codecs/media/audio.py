"""Audio files and arrays ↔ float32 (channels, samples) in [-1, 1]; resampling and mixing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenloom import lazy

from ..types import MAX_SAMPLES, Modality
from .sources import Source, describe, label, openable, refusing, require_range

soundfile = lazy.load("soundfile")
soxr = lazy.load("soxr")

BLOCK = 65_536
"""Samples per write: libsndfile crashes on one long write of Vorbis."""
FORMATS: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"), ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III"), ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"), ".au": ("AU", "PCM_16"), ".caf": ("CAF", "PCM_16"),
}  # fmt: skip
"""Suffix → format and subtype of libsndfile."""
AUDIO_SUFFIXES = tuple(FORMATS)
SIGNATURES = (b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
"""First bytes of audio files, except RIFF."""


def resample(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample (..., n) in [-1, 1] to (..., ceil(n · target_rate / source_rate)), clamped to [-1, 1]. Rates are in Hz.

    soxr filters at its highest quality, band-limited and with linear phase. Equal rates return the input tensor.
    """
    if source_rate == target_rate:
        return waveform
    *leading, n = waveform.shape
    length = -(-n * target_rate // source_rate)
    # a few zeros at the end, since soxr rounds its length and may drop the last sample
    padded = torch.nn.functional.pad(waveform.reshape(-1, n), (0, 2 + source_rate // target_rate))
    out = soxr.resample(padded.T.contiguous().numpy(), source_rate, target_rate, quality="VHQ")
    return torch.from_numpy(out[:length].T.copy()).reshape(*leading, length).clamp(-1, 1)


def mix(waveform: Tensor, channels: int) -> Tensor:
    """Average (channels, samples) down to one channel, or repeat one channel. Raises ValueError for other numbers."""
    if channels == waveform.shape[0]:
        return waveform
    if channels == 1:
        return waveform.mean(0, keepdim=True)
    if waveform.shape[0] == 1:
        return waveform.expand(channels, -1).contiguous()
    raise ValueError(f"{waveform.shape[0]} channels, which can be mixed down to 1 channel but not to {channels}")


def convert(waveform: Tensor, source_rate: int, target_rate: int, channels: int) -> Tensor:
    """Mix a waveform to `channels`, then resample it to `target_rate` Hz."""
    return resample(mix(waveform, channels), source_rate, target_rate)


def to_int16(waveform: Tensor) -> Tensor:
    """Round values in [-1, 1] to the nearest multiple of 2**-15, as int16; 1.0 becomes 32,767."""
    return (waveform * 32768).round().clamp(-32768, 32767).to(torch.int16)


def encode_audio(waveform: Tensor, rate: int, **options: Any) -> bytes:
    """Return a float32 waveform (channels, samples) in [-1, 1] at `rate` Hz as the bytes of an audio file.

    `options` are those of `soundfile.SoundFile`: format, subtype and so on.
    """
    signal = to_int16(waveform) if options.get("subtype") == "PCM_16" else waveform
    frames = np.ascontiguousarray(signal.cpu().numpy().T)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, frames.shape[1], **options) as file:
        for start in range(0, len(frames), BLOCK):
            file.write(frames[start : start + BLOCK])
    return buffer.getvalue()


def decode_audio(file: Any, limit: int = MAX_SAMPLES) -> Tensor:
    """Return all samples of an open `soundfile.SoundFile`, float32 (channels, samples).

    A single call reads all samples: soundfile seeks after each call, and MP3s with a bit reservoir decode wrongly after
    a seek. Memory for samples that the header claims but the file lacks is reserved, but not touched.

    Raises:
        ValueError: If the header states more than `limit` samples.
    """
    if file.frames > limit:
        raise ValueError(f"it must have at most {limit} samples per channel, got {file.frames}")
    return torch.from_numpy(np.ascontiguousarray(file.read(dtype="float32", always_2d=True).T))


@contextmanager
def open_audio(source: Source) -> Iterator[Any]:
    """Open an audio file or its bytes as a `soundfile.SoundFile`."""
    with refusing(label(source), Modality.AUDIO), soundfile.SoundFile(openable(source)) as opened:
        yield opened


def read_audio(source: Source) -> tuple[Tensor, int | None]:
    """Return the waveform of a file or array, and the sample rate in Hz, which is None for an array."""
    if isinstance(source, np.ndarray):
        return _from_array(source), None
    with open_audio(source) as file:
        waveform, rate = decode_audio(file), file.samplerate
        if not waveform.numel():
            raise ValueError("it contains no samples")
        if not waveform.isfinite().all():
            raise ValueError("it contains NaN or infinity")
    return waveform.clamp(-1, 1), rate


def _from_array(array: np.ndarray) -> Tensor:
    scale = 32768 if array.dtype == np.int16 else 1
    if array.ndim not in (1, 2) or not array.size or (array.dtype.kind != "f" and scale == 1):
        raise ValueError(f"the array must be audio ([channels,] samples) of floats or int16, got {describe(array)}")
    waveform = torch.from_numpy(np.atleast_2d(array).astype(np.float32) / np.float32(scale))
    if not (waveform.isfinite().all() and waveform.abs().max() <= 1):
        raise ValueError("the array has values outside [-1, 1]")
    return waveform


def audio_file(waveform: Tensor, path: Path, rate: int | None) -> bytes:
    """Return a waveform as the bytes of an audio file. The suffix of `path` selects the format."""
    if rate is None:
        raise ValueError(f"{path}: writing audio needs its sample_rate in Hz")
    if waveform.ndim != 2 or not waveform.numel() or not waveform.is_floating_point():
        raise ValueError(f"{path}: audio must be floats (channels, samples), got {describe(waveform)}")
    require_range(waveform, -1, path)
    container, subtype = FORMATS[path.suffix.lower()]
    try:
        return encode_audio(waveform.float(), rate, format=container, subtype=subtype)
    except Exception as error:  # libsndfile's own type, for rates and channels that the format does not support
        form = f"{waveform.shape[0]} channels at {rate} Hz"
        raise ValueError(f"{path}: {form} cannot be written as {subtype}: {error}") from error
