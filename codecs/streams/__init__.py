"""Streams: encoders and decoders that take a signal, or its codes, piece by piece."""

from .files import compress_stream, decompress_stream
from .frames import FrameEncoder
from .interface import Streamable, StreamDecoder, StreamEncoder
from .latent import LatentStreamable

__all__ = [
    "FrameEncoder",
    "LatentStreamable",
    "StreamDecoder",
    "StreamEncoder",
    "Streamable",
    "compress_stream",
    "decompress_stream",
]
