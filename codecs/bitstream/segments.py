"""Files without end: a stream of codes in segments, each with a checksum, and an index at the end.

    magic "tlm" | 3 | fingerprint, 8 bytes | CRC-32 of these
    segment ×n:  "seg" | first sample, 8 bytes | length, 4 bytes | CRC-32 of these | container of this length
    index:       "end" | samples, 8 bytes | segments, 4 bytes | offset of each, 8 bytes | segments, 4 bytes | CRC-32

A container is that of container.py. Integers are little-endian. A writer needs no more than one segment in memory. A
reader of damaged data finds the next segment by its head. The index is written last, so a file that has one is whole.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

import torch

from .. import batches
from ..types import MAX_SAMPLES, BitstreamError, CodecInterface, Codes
from . import container

MAGIC, VERSION = container.MAGIC, container.SEGMENTED
HEAD = container.HEAD + 4
SEGMENT, END = b"seg", b"end"
RECORD = struct.Struct("<3sQI")
"""Kind, first sample or number of samples, length or number of segments."""
COUNT = struct.Struct("<I")
SECONDS, SHORT = 10, 60
"""Length of a segment; length up to which a sound is one container."""
LEAST, LOST = 40, 24 * 3600
"""Fewest bytes of a segment; longest silence in seconds that replaces lost segments."""
MOST = 2**48
"""Largest number of samples of a file."""


class SegmentWriter:
    """Writer of a file of segments.

    Args:
        file: A binary file; it may be a pipe.
        codec: The codec of the codes.
        seconds: Length of a segment. A sound of up to six segments is one container.
    """

    def __init__(self, file: BinaryIO, codec: CodecInterface, seconds: float = SECONDS) -> None:
        spec = codec.spec
        if len(spec.stride) != 1 or spec.sample_rate is None:
            raise ValueError(f"segments are for codecs of sound with a stride, {codec.name} has none")
        self.file, self.codec = file, codec
        self.longest = max(1, round(seconds * spec.sample_rate / spec.stride[0]))
        """Frames of a segment."""
        self.short = SHORT // SECONDS * self.longest
        self.bytes = self.samples = self.tokens = 0
        self._offsets: list[int] = []
        self._held: list[Codes] = []
        self._frames = 0

    def write(self, codes: Codes) -> None:
        """Take the codes of the next frames of one sound. Only the last ones may end within a frame.

        Raises:
            ValueError: If these are the codes of several sounds.
        """
        if len(codes) != 1:
            raise ValueError(f"a file of segments must hold one sound, got codes of {len(codes)}")
        if not codes.indices.shape[2] and not int(codes.sizes[0]):
            return
        self._held.append(codes)
        self._frames += codes.indices.shape[2]
        if self._frames > self.short or (self._offsets and self._frames >= self.longest):
            held, stride = _joined(self._held), self.codec.spec.stride[0]
            whole = self._frames // self.longest * self.longest
            for first in range(0, whole, self.longest):
                self._segment(_frames(held, first, first + self.longest, stride))
            self._held, self._frames = [_frames(held, whole, self._frames, stride)], self._frames - whole

    def close(self) -> None:
        """Write the last segment and the index, or the container of a short sound.

        Raises:
            ValueError: If there are no codes.
        """
        if not self._held:
            raise ValueError("a file of segments must have at least 1 frame, got none before close()")
        left = _joined(self._held)
        if not self._offsets:
            self._put(self._container(left))
            return
        if left.indices.shape[2]:
            self._segment(left)
        index = RECORD.pack(END, self.samples, len(self._offsets))
        index += struct.pack(f"<{len(self._offsets)}Q", *self._offsets) + COUNT.pack(len(self._offsets))
        self._put(_checked(index))

    def _segment(self, codes: Codes) -> None:
        if not self._offsets:
            self._put(_checked(MAGIC + bytes([VERSION]) + self.codec.fingerprint))
        first = self.samples
        data = self._container(codes)
        self._offsets.append(self.bytes)
        self._put(_checked(RECORD.pack(SEGMENT, first, len(data))) + data)

    def _container(self, codes: Codes) -> bytes:
        self.samples += int(codes.sizes[0])
        self.tokens += codes.indices[0].numel()
        (data,) = container.write(self.codec, codes)
        return data

    def _put(self, data: bytes) -> None:
        self.file.write(data)
        self.bytes += len(data)


@dataclass(frozen=True)
class StoredSegment:
    """A segment of a file: its first sample, and the place of its container."""

    first: int
    offset: int
    length: int


@dataclass(repr=False, eq=False)
class SegmentReader:
    """Reader of a file of segments, or of one container.

    Args:
        data: The bytes of the file.
        salvage: Whether damaged and missing segments are skipped and recorded. Otherwise they are an error.

    Raises:
        BitstreamError: If the data is no such file, or is damaged and `salvage` is not set.
    """

    data: bytes
    salvage: bool = False
    lost: list[str] = field(default_factory=list, init=False)
    """What was skipped."""
    samples: int | None = field(default=None, init=False)
    """Samples of the sound; None if the file is cut."""
    segments: list[StoredSegment] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.fingerprint = container.fingerprint(self.data)
        self.segmented = is_segmented(self.data)
        if not self.segmented:
            self.samples = container.samples(self.data)
            self.segments = [StoredSegment(0, 0, len(self.data))]
            return
        try:
            self.segments = self._indexed()
        except BitstreamError as error:
            if not self.salvage:
                raise
            self.lost.append(str(error))
            self.segments = self._found()

    def pieces(self, codec: CodecInterface, first: int = 0) -> Iterator[tuple[int, Codes]]:
        """Yield the first sample and the codes of each segment that reaches beyond sample `first`, in order.

        Lost segments are left out. Raises BitstreamError for a damaged one unless `salvage` is set.
        """
        if codec.fingerprint != self.fingerprint:
            raise BitstreamError(container.other_codec(codec, self.fingerprint))
        rate = codec.spec.sample_rate or 1
        for segment, end in self._with_ends(rate):
            if end is not None and end <= first:
                continue
            try:
                codes = container.read(codec, [self.data[segment.offset : segment.offset + segment.length]])
                size, room = int(codes.sizes[0]), math.inf if end is None else end - segment.first
                if size > room or (size < room < math.inf and not self.salvage):  # fewer, if the next segment is lost
                    raise BitstreamError(f"it must have {room} samples, got {size}")
            except BitstreamError as error:
                if not self.segmented:
                    raise
                line = f"the segment at {segment.first / rate:.2f} s is damaged: {error}"
                if not self.salvage:
                    raise BitstreamError(line) from error
                self.lost.append(line)
            else:
                yield segment.first, codes

    def _with_ends(self, rate: int) -> Iterator[tuple[StoredSegment, int | None]]:
        """Yield the segments with the first sample of what follows, if it is known.

        Raises BitstreamError if more samples are missing than the bytes in between can have had.
        """
        starts = [(segment.first, segment.offset) for segment in self.segments] + [(self.samples, len(self.data))]
        if self.segmented:
            for (first, offset), (end, until) in itertools.pairwise([(0, HEAD), *starts]):
                most = min(LOST, SHORT * (1 + (until - offset) // LEAST)) * rate
                if first is not None and end is not None and end - first > most:
                    raise BitstreamError(f"{until - offset} bytes cannot hold the samples from {first} to {end}")
        yield from zip(self.segments, [end for end, _ in starts[1:]], strict=True)

    def _index(self) -> tuple[int, int, tuple[int, ...]]:
        """Return the place of the index, the samples, and the offsets. Raises BitstreamError if it is lost."""
        missing = BitstreamError("the file is cut or damaged at its end: it has no index")
        if len(self.data) < HEAD + RECORD.size + COUNT.size + 4:
            raise missing
        (count,) = COUNT.unpack(self.data[-4 - COUNT.size : -4])
        start = len(self.data) - 4 - COUNT.size - 8 * count - RECORD.size
        if start < HEAD or zlib.crc32(self.data[start:-4]).to_bytes(4, "little") != self.data[-4:]:
            raise missing
        kind, samples, _ = RECORD.unpack_from(self.data, start)
        if kind != END or samples > MOST:
            raise missing
        return start, samples, struct.unpack_from(f"<{count}Q", self.data, start + RECORD.size)

    def _indexed(self) -> list[StoredSegment]:
        """Return the segments of the index. Raises BitstreamError if it is lost, or does not fit the file."""
        end, samples, offsets = self._index()
        segments, at = [], HEAD
        for offset in offsets:
            if offset != at or (segment := self._segment(offset, end)) is None:
                raise BitstreamError(f"the head of segment {len(segments)} is damaged")
            segments.append(segment)
            at = segment.offset + segment.length
        firsts = [segment.first for segment in segments]
        if at != end or not segments or firsts[0] or sorted({*firsts, samples}) != [*firsts, samples]:
            raise BitstreamError("the segments do not follow each other as the index says")
        self.samples = samples
        return segments

    def _found(self) -> list[StoredSegment]:
        """Return the segments whose heads are whole, in order, wherever they are."""
        found: list[StoredSegment] = []
        for match in re.finditer(SEGMENT, self.data):
            if found and match.start() < found[-1].offset + found[-1].length:
                continue
            segment = self._segment(match.start(), len(self.data))
            if segment is not None and (not found or segment.first > found[-1].first):
                found.append(segment)
        if not found:
            raise BitstreamError("no segment of the file is whole")
        with suppress(BitstreamError):
            samples = self._index()[1]
            self.samples = samples if samples > found[-1].first else None
        return found

    def _segment(self, offset: int, end: int) -> StoredSegment | None:
        """Return the segment whose head is at an offset; None if the head is damaged or reaches beyond `end`."""
        head = self.data[offset : offset + RECORD.size]
        start = offset + RECORD.size + 4
        if len(head) < RECORD.size or zlib.crc32(head).to_bytes(4, "little") != self.data[offset + RECORD.size : start]:
            return None
        kind, first, length = RECORD.unpack(head)
        return (
            StoredSegment(first, start, length) if kind == SEGMENT and first <= MOST and start + length <= end else None
        )


def read(codec: CodecInterface, data: list[bytes]) -> Codes:
    """Read containers, or files of segments, of one codec into one batch of codes.

    Raises:
        BitstreamError: For other or damaged data, or a file of more samples than a signal may have.
    """
    if not isinstance(data, list | tuple) or not any(map(is_segmented, data)):
        return container.read(codec, data)
    return batches.collate([_whole(codec, one) if is_segmented(one) else container.read(codec, [one]) for one in data])


def is_segmented(data: bytes) -> bool:
    """Return whether data starts as a file of segments does."""
    return isinstance(data, bytes | bytearray | memoryview) and bytes(data[:4]) == MAGIC + bytes([VERSION])


def _whole(codec: CodecInterface, data: bytes) -> Codes:
    reader = SegmentReader(data)
    if (reader.samples or 0) > MAX_SAMPLES:
        raise BitstreamError(
            f"a signal must have at most {MAX_SAMPLES} samples, the file has {reader.samples}; "
            "codecs.decompress_stream decodes it piece by piece"
        )
    pieces = [codes for _, codes in reader.pieces(codec)]
    if len({codes.indices.shape[1] for codes in pieces}) > 1 or any(codes.side for codes in pieces):
        raise BitstreamError("all segments must have the same number of quantizers, and no side information")
    return _joined(pieces)


def _joined(parts: list[Codes]) -> Codes:
    sizes = torch.stack([part.sizes for part in parts]).sum(0)
    return Codes(torch.cat([part.indices for part in parts], 2), sizes)


def _frames(codes: Codes, first: int, end: int, stride: int) -> Codes:
    """Return some frames of codes, with their samples."""
    total = int(codes.sizes[0])
    size = min(total, end * stride) - min(total, first * stride)
    return Codes(codes.indices[..., first:end], torch.full_like(codes.sizes, size))


def _checked(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")
