"""Sounds of any length in files of segments; see records.py for the bytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import torch

from ..types import MAX_SAMPLES, BitstreamError, CodecInterface, Codes
from . import container
from .records import HEAD, RecordReader, RecordWriter, StoredSegment

SECONDS, SHORT = 10, 60
"""Length of a segment; length up to which a sound is one container."""
LEAST, LOST = 40, 24 * 3600
"""Fewest bytes of a segment; longest silence in seconds that replaces lost segments."""


class SegmentWriter(RecordWriter):
    """Writer of a sound as a file of segments.

    Args:
        file: A binary file; it may be a pipe.
        codec: The codec of the codes.
        seconds: Length of a segment. A sound of up to six segments is one container.
    """

    def __init__(self, file: BinaryIO, codec: CodecInterface, seconds: float = SECONDS) -> None:
        spec = codec.spec
        if len(spec.stride) != 1 or spec.sample_rate is None:
            raise ValueError(f"segments are for codecs of sound with a stride, {codec.name} has none")
        super().__init__(file, codec)
        self.longest = max(1, round(seconds * spec.sample_rate / spec.stride[0]))
        """Frames of a segment."""
        self.short = SHORT // SECONDS * self.longest
        self.samples = 0
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
        if self._frames > self.short or (self.offsets and self._frames >= self.longest):
            held, stride = joined(self._held), self.codec.spec.stride[0]
            whole = self._frames // self.longest * self.longest
            for first in range(0, whole, self.longest):
                self._write(_frames(held, first, first + self.longest, stride))
            self._held, self._frames = [_frames(held, whole, self._frames, stride)], self._frames - whole

    def close(self) -> None:
        """Write the last segment and the index, or the container of a short sound.

        Raises:
            ValueError: If there are no codes.
        """
        if not self._held:
            raise ValueError("a file of segments must have at least 1 frame, got none before close()")
        left = joined(self._held)
        if not self.offsets:
            self.samples += int(left.sizes[0])
            self.whole(left)
            return
        if left.indices.shape[2]:
            self._write(left)
        self.index(self.samples)

    def _write(self, codes: Codes) -> None:
        self.segment(self.samples, codes)
        self.samples += int(codes.sizes[0])


@dataclass(repr=False, eq=False)
class SegmentReader(RecordReader):
    """Reader of a sound in a file of segments, or in one container; see `RecordReader`."""

    @property
    def samples(self) -> int | None:
        """Samples of the sound; None if the file is cut."""
        return self.end if self.segmented else container.size(self.data, 1)[0]

    def pieces(self, codec: CodecInterface, first: int = 0) -> Iterator[tuple[int, Codes]]:
        """Yield the first sample and the codes of each segment that reaches beyond sample `first`, in order.

        Lost segments are left out. Raises BitstreamError for a damaged one unless `salvage` is set.
        """
        self.require(codec)
        rate = codec.spec.sample_rate or 1
        for segment, end in self._with_ends(rate):
            if end is not None and end <= first:
                continue
            try:
                codes = container.read(codec, [self.content(segment)])
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


def read_sound(codec: CodecInterface, data: bytes) -> Codes:
    """Read a file of segments at once.

    Raises:
        BitstreamError: For other or damaged data, or more samples than a signal may have.
    """
    reader = SegmentReader(data)
    if (reader.samples or 0) > MAX_SAMPLES:
        raise BitstreamError(
            f"a signal must have at most {MAX_SAMPLES} samples, the file has {reader.samples}; "
            "codecs.decompress_stream decodes it piece by piece"
        )
    pieces = [codes for _, codes in reader.pieces(codec)]
    if len({codes.indices.shape[1] for codes in pieces}) > 1 or any(codes.side for codes in pieces):
        raise BitstreamError("all segments must have the same number of quantizers, and no side information")
    return joined(pieces)


def joined(parts: list[Codes]) -> Codes:
    """Join the codes of pieces of a sound."""
    sizes = torch.stack([part.sizes for part in parts]).sum(0)
    return Codes(torch.cat([part.indices for part in parts], 2), sizes)


def _frames(codes: Codes, first: int, end: int, stride: int) -> Codes:
    """Return some frames of codes, with their samples."""
    total = int(codes.sizes[0])
    size = min(total, end * stride) - min(total, first * stride)
    return Codes(codes.indices[..., first:end], torch.full_like(codes.sizes, size))
