"""Long sounds, read and written piece by piece."""

from __future__ import annotations

import io
import math
import struct
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from tokenloom import lazy

from ..types import Modality
from . import audio, notices
from .sources import FileSection, label, refusing

soundfile = lazy.load("soundfile")
soxr = lazy.load("soxr")

PIECE = 2**18
"""Samples that are read at once."""
LONG = 60
"""Seconds from which a file is read in pieces."""
HEAD = 44
"""Bytes of a plain WAV file up to its samples."""
PCM = b"\1\0"
FLOATS = ("FLOAT", "DOUBLE")
"""Subtypes of libsndfile whose values may exceed 1."""
SUBTYPES = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
"""Bytes of a sample of a WAV file of integers → subtype of libsndfile."""
UNKNOWN = 2**32 - 1
"""Size of a WAV file that is not known when its header is written."""


class Recording:
    """A sound file that is read piece by piece.

    Args:
        source: The file.
    """

    def __init__(self, source: Path | FileSection) -> None:
        self.source = source

    def pieces(self, sample_rate: int, channels: int) -> Iterator[Tensor]:
        """Yield the sound as `read_pieces` does."""
        return read_pieces(self.source, sample_rate, channels)


def is_long(source: Path | FileSection) -> bool:
    """Return whether the header of a sound file states more than LONG seconds, all of one rate."""
    with audio.opened(source) as (streams, _):
        alike = len({(stream.samplerate, stream.channels) for stream in streams}) == 1
    header = audio.read_header(source)
    return alike and header.samples > LONG * header.sample_rate


def is_wave(pipe: BinaryIO) -> bool:
    """Return whether a buffered pipe starts as a WAV file of integers that states a length, even an unknown one."""
    head = pipe.peek(HEAD)[:HEAD]  # pyright: ignore[reportAttributeAccessIssue]
    plain = head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt " and head[20:22] == PCM
    return plain and any(head[4:8]) and not (head[36:40] == b"data" and not any(head[40:44]))


def read_pieces(source: Path | FileSection | BinaryIO, sample_rate: int, channels: int) -> Iterator[Tensor]:
    """Read a sound file, or a pipe of `is_wave`, piece by piece. The samples are those that `read` returns.

    A file of floats is read twice, since its peak decides whether it is scaled. A pipe, or a lossy format, that exceeds
    ±1 by more than the overshoot of an encoder is refused, since no more than a piece of it is known.

    Args:
        source: The file or pipe.
        sample_rate: Rate in Hz that the sound is resampled to.
        channels: Number of channels that it is mixed to.

    Yields:
        float32 (channels, samples) in [-1, 1], of any number of samples above 0.

    Raises:
        ValueError: If the file is damaged or has no samples, or values beyond ±1.
    """
    stored = isinstance(source, Path | FileSection)
    name = label(source) if stored else "standard input"
    parts = _file(source) if stored else _pipe(source)
    rate, own, peak = next(parts)
    audio.tell_changes(name, rate, sample_rate, own, channels)
    count, over = 0, _excess(source, name) if stored else 1.0
    checked = (audio.mix(_checked(part / over if over > 1 else part, peak, name), channels) for part in parts)
    for piece in _resampled(checked, rate, sample_rate, channels):
        count += piece.shape[-1]
        yield piece
    if not count:
        raise ValueError(f"{name} cannot be read as audio: it contains no samples")


def _excess(source: Path | FileSection, name: str) -> float:
    """Return what brings a file of floats into [-1, 1] as a divisor; 1 if it is there, as other formats are."""
    with audio.opened(source) as (streams, _):
        if streams[0].subtype not in FLOATS:
            return 1.0
    parts = _file(source)
    next(parts)
    with notices.collect():  # they are told when the samples are used
        peak = max((float(part.abs().max()) for part in parts), default=0.0)
    with refusing(name, Modality.AUDIO):
        return audio.excess(peak, audio.WHOLE, name) if math.isfinite(peak) else 1.0


def _file(path: Path | FileSection) -> Iterator:
    with audio.opened(path) as (streams, notice):
        first = streams[0]
        peak = audio.OVERSHOOT if first.subtype in audio.LOSSY else audio.WHOLE
        yield first.samplerate, first.channels, peak
        for stream in streams:
            if (stream.samplerate, stream.channels) != (first.samplerate, first.channels):
                raise ValueError("all parts of a long sound must have the same rate and channels")
            stream.seekable = lambda: False  # as in audio.decode_audio
            count = 0
            while len(part := stream.read(PIECE, dtype="float32", always_2d=True)):
                count += len(part)
                yield audio.channels_first(part)
            notice = audio.shortened(stream, count) or notice
        if notice:
            notices.tell(label(path), *notice)


def _pipe(pipe: BinaryIO) -> Iterator:
    with refusing("standard input", Modality.AUDIO), wave.open(pipe) as file:
        width, channels = file.getsampwidth(), file.getnchannels()
        yield file.getframerate(), channels, audio.WHOLE
        form = {"samplerate": file.getframerate(), "channels": channels, "format": "RAW", "endian": "LITTLE"}
        while data := file.readframes(PIECE):
            whole = io.BytesIO(data[: len(data) // (width * channels) * width * channels])
            part, _ = soundfile.read(whole, dtype="float32", always_2d=True, subtype=SUBTYPES[width], **form)
            if len(part):
                yield audio.channels_first(part)


def _checked(part: Tensor, most: float, name: str) -> Tensor:
    """Return a piece in [-1, 1]. Raises ValueError if it is not finite, or its peak exceeds `most`."""
    peak = part.abs().max()
    if not peak <= most:
        raise ValueError(
            f"{name}: a long sound must be finite and in [-1, 1], got a peak of {peak:.4g}; scale it first"
        )
    return part.clamp(-1, 1)


def _resampled(parts: Iterable[Tensor], rate: int, target: int, channels: int) -> Iterator[Tensor]:
    """Resample pieces as `audio.resample` resamples a whole."""
    if rate == target:
        yield from parts
        return
    audio.require_ratio(rate, target)
    stream = soxr.ResampleStream(rate, target, channels, quality="VHQ")
    taken = given = 0
    for part in parts:
        taken += part.shape[1]
        out = stream.resample_chunk(np.ascontiguousarray(part.T.numpy()))
        given += len(out)
        if len(out):
            yield audio.channels_first(out).clamp(-1, 1)
    rest = stream.resample_chunk(np.zeros((2 + rate // target, channels), np.float32), last=True)
    if len(rest := rest[: max(0, -(-taken * target // rate) - given)]):
        yield audio.channels_first(rest).clamp(-1, 1)


def write_pieces(
    pieces: Iterable[Tensor], file: BinaryIO, suffix: str, sample_rate: int, channels: int, samples: int | None
) -> None:
    """Write a sound piece by piece: to an open file in the format of a suffix, or to a pipe as WAV with 16 bits.

    Args:
        pieces: float32 (channels, samples) in [-1, 1].
        file: The file or pipe.
        suffix: Suffix that selects the format of a file.
        sample_rate: In Hz.
        channels: Number of channels.
        samples: Number of samples, which the header of a pipe states; None if it is not known.

    Raises:
        ValueError: If the format does not have this rate or number of channels.
    """
    if not file.seekable():
        _write_wave(pieces, file, sample_rate, channels, samples)
        return
    container, subtype = audio.FORMATS[suffix.lower()]
    try:
        sound = soundfile.SoundFile(file, "w", sample_rate, channels, format=container, subtype=subtype)
    except soundfile.LibsndfileError as error:
        form = f"{channels} channels at {sample_rate} Hz"
        raise ValueError(f"{form} cannot be written as {subtype}: {error}") from error
    with sound:
        for piece in pieces:
            audio.append(sound, piece)


def _write_wave(pieces: Iterable[Tensor], pipe: BinaryIO, rate: int, channels: int, samples: int | None) -> None:
    """Write a WAV file without going back to its header. An unknown size has all bits set, as FFmpeg writes it."""
    size = 2 * channels * samples if samples is not None else UNKNOWN
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    head = b"RIFF" + struct.pack("<I", min(36 + size, UNKNOWN)) + b"WAVEfmt " + form
    pipe.write(head + b"data" + struct.pack("<I", min(size, UNKNOWN)))
    for piece in pieces:
        pipe.write(np.ascontiguousarray(audio.to_int16(piece).cpu().numpy().T).astype("<i2").tobytes())
