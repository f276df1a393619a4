"""Files of segments: containers with checksums of their own, and an index at the end.

    magic "tlm" | 3 | fingerprint, 8 bytes | CRC-32 of these
    segment ×n:  "seg" | place, 8 bytes | length, 4 bytes | CRC-32 of these | container of this length
    index:       "end" | end, 8 bytes | segments, 4 bytes | offset of each, 8 bytes | segments, 4 bytes | CRC-32

A container is that of container.py. Integers are little-endian. Places rise from one segment to the next, and the end
is beyond all of them: samples of a sound (segments.py), or rows and columns of a picture (tiles.py). A writer needs no
more than one segment in memory. A reader of damaged data finds the next segment by its head. The index is written
last, so a file that has one is whole.
"""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from .. import rate
from ..types import BitstreamError, CodecInterface, Codes
from . import container

MAGIC, VERSION = container.MAGIC, container.SEGMENTED
HEAD = container.HEAD + 4
SEGMENT, END = b"seg", b"end"
RECORD = struct.Struct("<3sQI")
"""Kind, place or end, length or number of segments."""
COUNT = struct.Struct("<I")
MOST = 2**48
"""Largest place."""


class RecordWriter:
    """Writer of a file of segments.

    Args:
        file: A binary file; it may be a pipe.
        codec: The codec of the codes.
    """

    def __init__(self, file: BinaryIO, codec: CodecInterface) -> None:
        self.file, self.codec = file, codec
        self.bytes = self.tokens = 0
        self.offsets: list[int] = []

    def segment(self, place: int, codes: Codes) -> None:
        """Write the codes of one item as the next segment."""
        if not self.offsets:
            self._put(checked(MAGIC + bytes([VERSION]) + self.codec.fingerprint))
        self.offsets.append(self.bytes)
        data = self._container(codes)
        self._put(checked(RECORD.pack(SEGMENT, place, len(data))) + data)

    def whole(self, codes: Codes) -> None:
        """Write the codes of one item as a plain container, in place of segments."""
        self._put(self._container(codes))

    def index(self, end: int) -> None:
        """Write the index, the end of the file."""
        record = RECORD.pack(END, end, len(self.offsets)) + struct.pack(f"<{len(self.offsets)}Q", *self.offsets)
        self._put(checked(record + COUNT.pack(len(self.offsets))))

    def _container(self, codes: Codes) -> bytes:
        self.tokens += int(rate.tokens(self.codec.spec, codes))
        (data,) = container.write(self.codec, codes)
        return data

    def _put(self, data: bytes) -> None:
        self.file.write(data)
        self.bytes += len(data)


@dataclass(frozen=True)
class StoredSegment:
    """A segment of a file: its place in the signal, and where its container is."""

    first: int
    offset: int
    length: int


@dataclass(repr=False, eq=False)
class RecordReader:
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
    end: int | None = field(default=None, init=False)
    """The end of the signal; None if the file is cut, or is one container."""
    segments: list[StoredSegment] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.fingerprint = container.fingerprint(self.data)
        self.segmented = is_segmented(self.data)
        if not self.segmented:
            self.segments = [StoredSegment(0, 0, len(self.data))]
            return
        try:
            self.segments = self._indexed()
        except BitstreamError as error:
            if not self.salvage:
                raise
            self.lost.append(str(error))
            self.segments = self._found()

    def content(self, segment: StoredSegment) -> bytes:
        """Return the container of a segment."""
        return self.data[segment.offset : segment.offset + segment.length]

    def require(self, codec: CodecInterface) -> None:
        """Raise BitstreamError if another codec wrote the file."""
        if codec.fingerprint != self.fingerprint:
            raise BitstreamError(container.other_codec(codec, self.fingerprint))

    def _index(self) -> tuple[int, int, tuple[int, ...]]:
        """Return the place of the index, the end of the signal, and the offsets. Raises BitstreamError if lost."""
        missing = BitstreamError("the file is cut or damaged at its end: it has no index")
        if len(self.data) < HEAD + RECORD.size + COUNT.size + 4:
            raise missing
        (count,) = COUNT.unpack(self.data[-4 - COUNT.size : -4])
        start = len(self.data) - 4 - COUNT.size - 8 * count - RECORD.size
        if start < HEAD or zlib.crc32(self.data[start:-4]).to_bytes(4, "little") != self.data[-4:]:
            raise missing
        kind, end, _ = RECORD.unpack_from(self.data, start)
        if kind != END or end > MOST:
            raise missing
        return start, end, struct.unpack_from(f"<{count}Q", self.data, start + RECORD.size)

    def _indexed(self) -> list[StoredSegment]:
        """Return the segments of the index. Raises BitstreamError if it is lost, or does not fit the file."""
        until, end, offsets = self._index()
        segments, at = [], HEAD
        for offset in offsets:
            if offset != at or (segment := self._segment(offset, until)) is None:
                raise BitstreamError(f"the head of segment {len(segments)} is damaged")
            segments.append(segment)
            at = segment.offset + segment.length
        firsts = [segment.first for segment in segments]
        if at != until or not segments or firsts[0] or sorted({*firsts, end}) != [*firsts, end]:
            raise BitstreamError("the segments do not follow each other as the index says")
        self.end = end
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
            end = self._index()[1]
            self.end = end if end > found[-1].first else None
        return found

    def _segment(self, offset: int, until: int) -> StoredSegment | None:
        """Return the segment whose head is at an offset; None if the head is damaged or reaches beyond `until`."""
        head = self.data[offset : offset + RECORD.size]
        start = offset + RECORD.size + 4
        if len(head) < RECORD.size or zlib.crc32(head).to_bytes(4, "little") != self.data[offset + RECORD.size : start]:
            return None
        kind, first, length = RECORD.unpack(head)
        whole = kind == SEGMENT and first <= MOST and start + length <= until
        return StoredSegment(first, start, length) if whole else None


def is_segmented(data: bytes) -> bool:
    """Return whether data starts as a file of segments does."""
    return isinstance(data, bytes | bytearray | memoryview) and bytes(data[:4]) == MAGIC + bytes([VERSION])


def checked(data: bytes) -> bytes:
    """Return data with its CRC-32."""
    return data + zlib.crc32(data).to_bytes(4, "little")
