"""Conversion between signals and files, PIL images or arrays; resampling."""

from . import pieces, pillow
from .audio import AUDIO_SUFFIXES, convert, decode_audio, encode_audio, mix, resample, to_int16
from .files import TEXT_SUFFIXES, modality, read, sample_rate, to_bytes, write
from .images import IMAGE_SUFFIXES, Canvas, Picture, to_uint8
from .sources import Source

__all__ = [
    "AUDIO_SUFFIXES", "IMAGE_SUFFIXES", "TEXT_SUFFIXES", "Canvas", "Picture", "Source", "convert", "decode_audio",
    "encode_audio", "mix", "modality", "pieces", "pillow", "read", "resample", "sample_rate", "to_bytes", "to_int16",
    "to_uint8", "write",
]  # fmt: skip
