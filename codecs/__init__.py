"""Codecs of images, audio and text with one interface. codec.py has the contract, types.py the data types."""

import importlib
import pkgutil

from tokenloom import threads

from . import audio, image, media, text
from .bitstream import Box, SegmentReader, TileReader
from .checkpoint import shipped
from .codec import Codec, LatentCodec, build, decompress, load, save
from .display import show
from .media import read, write
from .own.functions import wrap
from .registry import names, register
from .streams import (
    compress_stream,
    compress_tiles,
    decompress_stream,
    decompress_tiles,
    encode_picture,
    encode_stream,
    encode_tiles,
    tile_obstacle,
)
from .types import BitstreamError, Codes, CodeSpec, Modality, Settings, Target, TargetError

__all__ = [
    "BitstreamError", "Box", "CodeSpec", "Codec", "Codes", "LatentCodec", "Modality", "SegmentReader", "Settings",
    "Target", "TargetError", "TileReader", "build", "compress_stream", "compress_tiles", "decompress",
    "decompress_stream", "decompress_tiles", "encode_picture", "encode_stream", "encode_tiles", "load", "media",
    "names", "read", "register", "save", "shipped", "show", "tile_obstacle", "wrap", "write",
]  # fmt: skip


def _register_built_in() -> None:
    """Import every module of the three folders in alphabetical order. Importing a codec's module registers it."""
    for folder in (audio, image, text):
        for name in sorted(module.name for module in pkgutil.iter_modules(folder.__path__)):
            importlib.import_module(f"{folder.__name__}.{name}")


_register_built_in()
threads.make_fork_safe()
