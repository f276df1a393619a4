"""Streams and tiles: encoders and decoders that take a signal, or its codes, piece by piece."""

from .files import compress_stream, decompress_stream, encode_stream
from .frames import FrameEncoder
from .interface import Streamable, StreamDecoder, StreamEncoder
from .latent import LatentStreamable
from .tiles import compress_tiles, decompress_tiles, encode_picture, encode_tiles, tile_obstacle

__all__ = [
    "FrameEncoder",
    "LatentStreamable",
    "StreamDecoder",
    "StreamEncoder",
    "Streamable",
    "compress_stream",
    "compress_tiles",
    "decompress_stream",
    "decompress_tiles",
    "encode_picture",
    "encode_stream",
    "encode_tiles",
    "tile_obstacle",
]
