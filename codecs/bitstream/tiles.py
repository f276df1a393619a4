"""Pictures of any size in files of segments, each of which is a tile; see records.py for the bytes.

The place of a tile is its first row · 2^24 + its first column, the end the same of height and width. Tiles are in
raster order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

import torch

from ..types import MAX_PIXELS, BitstreamError, CodecInterface, Codes
from . import container
from .records import RecordReader, RecordWriter, StoredSegment

COLUMNS = 2**24
"""Sides of a picture are below this, in pixels."""


@dataclass(frozen=True)
class Box:
    """Rows and columns of a picture, in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width; 0 or less if the box is empty."""
        return self.bottom - self.top, self.right - self.left

    @property
    def ranges(self) -> tuple[range, range]:
        """The rows and the columns."""
        return range(self.top, self.bottom), range(self.left, self.right)

    def within(self, other: Box) -> Box:
        """Return the part of the box that is in another one."""
        corner = max(self.top, other.top), max(self.left, other.left)
        return Box(*corner, min(self.bottom, other.bottom), min(self.right, other.right))

    def __bool__(self) -> bool:
        return min(self.size) > 0

    def __str__(self) -> str:
        return f"row {self.top}, column {self.left}"


class TileWriter(RecordWriter):
    """Writer of a picture as a file of tiles. A picture of one tile becomes a plain container.

    Args:
        file: A binary file; it may be a pipe.
        codec: The codec of the codes.
        size: Height and width of the picture.

    Raises:
        ValueError: If a side has 2^24 pixels or more.
    """

    def __init__(self, file: BinaryIO, codec: CodecInterface, size: tuple[int, int]) -> None:
        super().__init__(file, codec)
        if max(size) >= COLUMNS:
            raise ValueError(f"the sides of a picture must be below {COLUMNS} pixels, got {size[1]} x {size[0]}")
        self.size = size

    def write(self, tile: Box, codes: Codes) -> None:
        """Take the codes of the next tile in raster order."""
        if tile.size == self.size:
            self.whole(codes)
        else:
            self.segment(tile.top * COLUMNS + tile.left, codes)

    def close(self) -> None:
        """Write the index."""
        if self.offsets:
            self.index(self.size[0] * COLUMNS + self.size[1])


@dataclass(repr=False, eq=False)
class TileReader(RecordReader):
    """Reader of a picture in a file of tiles, or in one container; see `RecordReader`."""

    size: tuple[int, int] = field(default=(0, 0), init=False)
    """Height and width of the picture. If the file is cut, of the part that is left."""
    tiles: dict[Box, StoredSegment] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for segment in self.segments:
            try:
                self.tiles[self._box(segment)] = segment
            except BitstreamError as error:
                self.lose(f"the tile at row {segment.first // COLUMNS}", error)
        if self.end is not None:
            self.size = divmod(self.end, COLUMNS)
        elif self.tiles:
            self.size = max(tile.bottom for tile in self.tiles), max(tile.right for tile in self.tiles)
        whole = Box(0, 0, *self.size)
        if not self.salvage and [*self.tiles] != self._expected():
            raise BitstreamError("the tiles do not cover the picture")
        self.tiles = {tile: segment for tile, segment in self.tiles.items() if tile.within(whole) == tile}
        if not self.tiles:
            raise BitstreamError("no tile of the file is whole")

    def codes(self, codec: CodecInterface, tile: Box) -> Codes | None:
        """Return the codes of a tile; None for a damaged one if `salvage` is set, else it is a BitstreamError."""
        try:
            codes = container.read(codec, [self.content(self.tiles[tile])])
            steps = zip((tile.top, tile.left), codec.spec.stride, strict=True)
            if not codec.spec.stride or any(first % step for first, step in steps):
                raise BitstreamError("it must begin at a whole stride")
        except BitstreamError as error:
            self.lose(f"the tile at {tile}", error)
            return None
        return codes

    def lose(self, what: str, error: BitstreamError) -> None:
        """Record what is damaged. Raises BitstreamError unless `salvage` is set."""
        if not self.segmented:
            raise error
        line = f"{what} is damaged: {error}"
        if not self.salvage:
            raise BitstreamError(line) from error
        self.lost.append(line)

    def _box(self, segment: StoredSegment) -> Box:
        """Return the box of a segment, whose checksum is verified."""
        data = self.content(segment)
        if container.fingerprint(data) != self.fingerprint or data[3] == container.SEGMENTED:
            raise BitstreamError("it must be a container of the codec of the file")
        height, width = container.size(data, 2)
        top, left = divmod(segment.first, COLUMNS)
        if not 0 < height * width <= MAX_PIXELS:
            raise BitstreamError(f"a tile must have 1 to {MAX_PIXELS} pixels, it declares {width} x {height}")
        return Box(top, left, top + height, left + width)

    def _expected(self) -> list[Box]:
        """Return the boxes of a grid with the first rows and columns of the tiles; none if their number differs."""
        tops = sorted({tile.top for tile in self.tiles})
        lefts = sorted({tile.left for tile in self.tiles})
        if len(tops) * len(lefts) != len(self.tiles) or tops[0] or lefts[0]:
            return []
        rows, columns = (
            [*itertools.pairwise([*firsts, end])] for firsts, end in zip((tops, lefts), self.size, strict=True)
        )
        return [Box(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def read_picture(codec: CodecInterface, data: bytes) -> Codes:
    """Read a file of tiles at once.

    Raises:
        BitstreamError: For other or damaged data, or more pixels than an image may have.
    """
    reader = TileReader(data)
    reader.require(codec)
    if math.prod(reader.size) > MAX_PIXELS:
        raise BitstreamError(
            f"an image must have at most {MAX_PIXELS} pixels, the file has {reader.size[1]} x {reader.size[0]}; "
            "codecs.decompress_tiles decodes it tile by tile"
        )
    parts = ((tile, codes) for tile in reader.tiles if (codes := reader.codes(codec, tile)) is not None)
    return joined(codec, parts, Box(0, 0, *reader.size))


def joined(codec: CodecInterface, parts: Iterable[tuple[Box, Codes]], box: Box, fill: Codes | None = None) -> Codes:
    """Join codes of tiles to those of a box, which begins and ends at whole strides or the edge of the picture.

    Args:
        codec: The codec of the codes.
        parts: Tiles with their codes, one or more of them in the box.
        box: Rows and columns.
        fill: Codes of one position, for all positions without a tile; None if there are none.

    Raises:
        BitstreamError: If tiles have other numbers of quantizers, or other side information.
    """
    indices, side = torch.empty(0), {}
    for tile, codes in parts:
        if not (part := tile.within(box)):
            continue
        if not indices.numel():
            indices = torch.zeros(1, codes.indices.shape[1], *codec.spec.grid(box.size), dtype=torch.int64)
            indices, side = indices if fill is None else indices + fill.indices[:, : indices.shape[1]], codes.side
        alike = codes.indices.shape[1] == indices.shape[1] and codes.side.keys() == side.keys()
        if not alike or any(not torch.equal(codes.side[key], value) for key, value in side.items()):
            raise BitstreamError("all tiles must have the same number of quantizers and the same side information")
        here, there = _positions(part, box, codec.spec.stride), _positions(part, tile, codec.spec.stride)
        indices[(..., *here)] = codes.indices[(..., *there)]
    return Codes(indices, torch.tensor([box.size]), None, side)


def _positions(part: Box, box: Box, stride: tuple[int, ...]) -> tuple[slice, slice]:
    """Return where the codes of a part are among those of a box."""
    down, across = stride
    top, left = (part.top - box.top) // down, (part.left - box.left) // across
    rows, columns = -(-part.size[0] // down), -(-part.size[1] // across)
    return slice(top, top + rows), slice(left, left + columns)
