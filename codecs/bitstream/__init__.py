"""Bitstreams: one self-describing container of bytes per item, or a file of segments for a sound of any length."""

from .container import decode, fingerprint, write
from .segments import SegmentReader, SegmentWriter, is_segmented, read

__all__ = ["SegmentReader", "SegmentWriter", "decode", "fingerprint", "is_segmented", "read", "write"]
