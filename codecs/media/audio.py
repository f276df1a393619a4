"""Audio files and arrays ↔ float32 (channels, samples) in [-1, 1]; resampling and mixing."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenloom import lazy, memory

from ..types import MAX_SAMPLES, Modality
from . import lengths, notices
from .lengths import UNKNOWN
from .sources import Source, binary, describe, label, openable, refusing, require_range

soundfile = lazy.load("soundfile")
soxr = lazy.load("soxr")

BLOCK = 65_536
"""Samples per write: libsndfile crashes on one long write of Vorbis."""
LOSSY = ("MPEG_LAYER_III", "VORBIS", "OPUS")
"""Subtypes whose decoded samples may exceed those that were encoded."""
OVERSHOOT, ABSURD = 2**0.5, 32.0
"""Peak up to which a lossy format is clipped without a word, as by every player; peak beyond which floats are refused.
"""
WHOLE = 1 + 2**-15
"""Peak up to which a sound is taken to be in [-1, 1]: half a step of 16 bits more."""
MOST_CHANNELS = 32
"""Channels beyond which an array with more channels than samples is taken for one of (samples, channels)."""
VALUE_BYTES = 12
"""Most bytes per sample and channel that reading a sound takes, measured."""
MAX_RATIO = 512
"""Largest ratio of two sample rates. It bounds the length of the filter, and what a short file can become."""
DELAY = 2304
"""Samples that an MP3 file may lack of the number in its header: two frames."""
FORMATS: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"), ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III"), ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"), ".aifc": ("AIFF", "PCM_16"), ".au": ("AU", "PCM_16"), ".snd": ("AU", "PCM_16"),
    ".caf": ("CAF", "PCM_16"), ".wave": ("WAV", "PCM_16"), ".w64": ("W64", "PCM_16"), ".rf64": ("RF64", "PCM_16"),
}  # fmt: skip
"""Suffix → format and subtype of libsndfile."""
AUDIO_SUFFIXES = tuple(FORMATS)
SIGNATURES = (
    b"RF64",
    b"riff",
    b"fLaC",
    b"OggS",
    b"ID3",
    b"FORM",
    b".snd",
    b"caff",
    b"\xff\xfb",
    b"\xff\xf3",
    b"\xff\xf2",
)
"""First bytes of audio files, except RIFF."""


def resample(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample (..., n) in [-1, 1] to (..., ceil(n · target_rate / source_rate)), clamped to [-1, 1]. Rates are in Hz.

    soxr filters at its highest quality, band-limited and with linear phase. Equal rates return the input tensor.
    """
    if source_rate == target_rate:
        return waveform
    require_ratio(source_rate, target_rate)
    *leading, n = waveform.shape
    if (length := -(-n * target_rate // source_rate)) > MAX_SAMPLES:
        raise ValueError(f"at {target_rate} Hz it must have at most {MAX_SAMPLES} samples, {n} become {length}")
    # a few zeros at the end, since soxr rounds its length and may drop the last sample
    padded = torch.nn.functional.pad(waveform.reshape(-1, n), (0, 2 + source_rate // target_rate))
    out = soxr.resample(padded.T.contiguous().cpu().numpy(), source_rate, target_rate, quality="VHQ")
    return torch.from_numpy(out[:length].T.copy()).reshape(*leading, length).clamp(-1, 1).to(waveform.device)


def require_ratio(source_rate: int, target_rate: int) -> None:
    """Raise ValueError if the rates differ too much to resample."""
    if max(source_rate, target_rate) > MAX_RATIO * min(source_rate, target_rate):
        raise ValueError(
            f"it must be resampled by at most {MAX_RATIO} times, {source_rate} Hz to {target_rate} Hz is more"
        )


def mix(waveform: Tensor, channels: int) -> Tensor:
    """Average (channels, samples) down to one channel, or repeat one channel. Raises ValueError for other numbers."""
    if channels == waveform.shape[0]:
        return waveform
    if channels == 1:
        return waveform.mean(0, keepdim=True)
    if waveform.shape[0] == 1:
        return waveform.expand(channels, -1).contiguous()
    raise ValueError(f"it has {waveform.shape[0]} channels, which can be mixed down to 1 channel but not to {channels}")


def convert(waveform: Tensor, source_rate: int, target_rate: int, channels: int, name: str = "") -> Tensor:
    """Mix a waveform to `channels`, then resample it to `target_rate` Hz. What changes is told (see notices.py)."""
    converted = resample(mix(waveform, channels), source_rate, target_rate)
    tell_changes(name, source_rate, target_rate, waveform.shape[0], channels)
    return converted


def tell_changes(name: str, source_rate: int, target_rate: int, source_channels: int, channels: int) -> None:
    """Tell that a sound is mixed down or resampled, if it is."""
    changes = []
    if channels < source_channels:
        changes.append(f"{source_channels} channels are averaged to {channels}")
    if source_rate != target_rate:
        changes.append(f"{source_rate} Hz is resampled to {target_rate} Hz")
    if changes:
        notices.tell(name, ", ".join(changes))


def to_int16(waveform: Tensor) -> Tensor:
    """Round values in [-1, 1] to the nearest multiple of 2**-15, as int16; 1.0 becomes 32,767."""
    return (waveform * 32768).round().clamp(-32768, 32767).to(torch.int16)


def encode_audio(waveform: Tensor, rate: int, **options: Any) -> bytes:
    """Return a float32 waveform (channels, samples) in [-1, 1] at `rate` Hz as the bytes of an audio file.

    `options` are those of `soundfile.SoundFile`: format, subtype and so on.
    """
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, len(waveform), **options) as file:
        append(file, waveform)
    return buffer.getvalue()


def append(file: Any, waveform: Tensor) -> None:
    """Write a float32 waveform (channels, samples) in [-1, 1] to an open `soundfile.SoundFile`, after what it holds."""
    signal = to_int16(waveform) if file.subtype == "PCM_16" else waveform
    frames = np.ascontiguousarray(signal.cpu().numpy().T)
    for start in range(0, len(frames), BLOCK):
        file.write(frames[start : start + BLOCK])


def decode_audio(file: Any, limit: int = MAX_SAMPLES) -> Tensor:
    """Return all samples of an open `soundfile.SoundFile`, float32 (channels, samples).

    Memory for samples that the header claims but the file lacks is reserved, but not touched.

    Raises:
        ValueError: If there are more than `limit` samples, or as many values as in 2 channels of MAX_SAMPLES.
    """
    file.seekable = lambda: False  # else soundfile seeks after each block, after which some MP3s decode wrongly
    most = min(limit, 2 * MAX_SAMPLES // file.channels)
    if most < file.frames < UNKNOWN:
        raise ValueError(f"it must have at most {most} samples per channel, got {file.frames}")
    if file.frames < UNKNOWN:
        memory.require_values(file.frames * file.channels, VALUE_BYTES, "reading it")
        return channels_first(file.read(file.frames, dtype="float32", always_2d=True))
    parts, total = [], 0
    while len(part := file.read(BLOCK, dtype="float32", always_2d=True)):
        parts.append(part)
        if (total := total + len(part)) > most:
            raise ValueError(f"it must have at most {most} samples per channel, got more")
    return channels_first(np.concatenate(parts) if parts else np.zeros((0, file.channels), np.float32))


def channels_first(frames: np.ndarray) -> Tensor:
    """Return samples (samples, channels) as a waveform (channels, samples)."""
    return torch.from_numpy(np.ascontiguousarray(frames.T))


class AudioHeader(NamedTuple):
    """Sample rate in Hz, number of channels and of samples per channel."""

    sample_rate: int
    channels: int
    samples: int


def read_header(source: Source) -> AudioHeader:
    """Return what an audio file states of itself. Its samples are decoded only if it does not state their number."""
    with opened(source) as (streams, _):
        first = streams[0]
        header = AudioHeader(first.samplerate, first.channels, first.frames)
        if len(streams) == 1 and first.frames < UNKNOWN:
            return header
    return header._replace(samples=read_audio(source)[0].shape[1])


def read_audio(source: Source) -> tuple[Tensor, int | None]:
    """Return the waveform of a file or array in [-1, 1], and the sample rate in Hz, which is None for an array."""
    if isinstance(source, np.ndarray):
        return _from_array(source), None
    name = label(source)
    with opened(source) as (streams, notice):
        rate, channels, lossy = streams[0].samplerate, streams[0].channels, streams[0].subtype in LOSSY
        parts = []
        for stream in streams:
            part = decode_audio(stream, MAX_SAMPLES - sum(part.shape[1] for part in parts))
            parts.append(convert(part, stream.samplerate, rate, channels, name))
            notice = shortened(stream, part.shape[1]) or notice
        waveform = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        if not waveform.numel():
            raise ValueError("it contains no samples")
        if not waveform.isfinite().all():
            raise ValueError("it contains NaN or infinity")
        if notice:
            notices.tell(name, *notice)
        return _in_range(waveform, lossy, name), rate


def shortened(stream: Any, count: int) -> notices.Notice | None:
    """Return a notice if a stream held fewer samples than it states."""
    if count + (DELAY if stream.subtype in LOSSY else 0) < stream.frames < UNKNOWN:
        return notices.Notice(lengths.CUT, f"{count} of {stream.frames} samples")
    return None


@contextmanager
def opened(source: Source) -> Iterator[tuple[list[Any], notices.Notice | None]]:
    """Open the streams of an audio file as `soundfile.SoundFile`, with the notice of `lengths.repaired`."""
    with refusing(label(source), Modality.AUDIO), ExitStack() as stack:
        file = stack.enter_context(binary(source))
        files, notice = lengths.repaired(file)
        streams: list[Any] = list(files)
        if isinstance(source, str | os.PathLike) and files == [file] and not isinstance(file, io.BytesIO):
            streams = [openable(source)]  # a file on disk is read by libsndfile itself, which is faster
        streams = [stream if isinstance(stream, str) else _Stream(stream) for stream in streams]
        yield [stack.enter_context(soundfile.SoundFile(stream)) for stream in streams], notice


class _Stream:
    """File for libsndfile that stays where it is if a damaged header asks for a place before its beginning.

    Python prints an error that is raised inside a callback from C, and goes on.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def seek(self, offset: int, whence: int = 0) -> int:
        with suppress(ValueError, OSError):
            self._file.seek(offset, whence)
        return self._file.tell()


def _in_range(waveform: Tensor, lossy: bool, name: str) -> Tensor:
    """Return a waveform in [-1, 1]: scaled down if floats exceed it, clipped if a lossy format overshoots a little."""
    over = excess(float(waveform.abs().max()), OVERSHOOT if lossy else WHOLE, name)
    return (waveform / over if over > 1 else waveform).clamp(-1, 1)


def excess(peak: float, most: float, name: str) -> float:
    """Return what a sound is divided by: its peak if it exceeds `most`, else 1. Refuse the scale of integers."""
    if peak <= most:
        return 1.0
    if peak > ABSURD:
        raise ValueError(
            f"its samples must be in [-1, 1], got a peak of {peak:g}, which is the scale of integers: divide them by "
            f"{2 ** math.ceil(math.log2(peak))} and write the file again"
        )
    notices.tell(name, "samples beyond ±1 are scaled down to a peak of 1", f"the peak is {peak:.4g}")
    return peak


def _from_array(array: np.ndarray) -> Tensor:
    scale = 32768 if array.dtype == np.int16 else 1
    if array.ndim == 2 and array.shape[0] > max(MOST_CHANNELS, array.shape[1]):
        raise ValueError(f"the array must be audio (channels, samples), got {describe(array)}; transpose it")
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
