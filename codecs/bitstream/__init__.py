"""Bitstreams: one self-describing container of bytes per item, or a file of segments for a signal of any length."""

from . import container, segments, tiles
from .container import decode, fingerprint, write
from .reading import read
from .records import is_segmented
from .segments import SegmentReader, SegmentWriter
from .tiles import Box, TileReader, TileWriter

__all__ = [
    "Box", "SegmentReader", "SegmentWriter", "TileReader", "TileWriter", "container", "decode", "fingerprint",
    "is_segmented", "read", "segments", "tiles", "write",
]  # fmt: skip
