"""Every codec behind one interface. See codec.py for the contract and types.py for what codes are."""

from . import media
from .audio import classical as _audio_classical
from .audio import encodec as _encodec
from .audio import hf as _audio_hf
from .audio import learned as _audio_learned
from .checkpoint import shipped
from .codec import Codec, LatentCodec, build, decompress, load, save
from .image import classical as _image_classical
from .image import flex as _flex
from .image import hf as _image_hf
from .image import learned as _image_learned
from .image import llamagen as _llamagen
from .image import magvit2 as _magvit2
from .image import ntc as _ntc
from .image import taming as _taming
from .media import read, write
from .registry import names, register
from .text import bpe as _bpe
from .text import utf8 as _utf8
from .types import BitstreamError, Codes, CodeSpec, Modality, Settings, Target, TargetError

__all__ = [
    "BitstreamError", "CodeSpec", "Codec", "Codes", "LatentCodec", "Modality", "Settings", "Target", "TargetError",
    "build", "decompress", "load", "media", "names", "read", "register", "save", "shipped", "write",
]  # fmt: skip

BUILT_IN = (
    _audio_classical, _audio_learned, _encodec, _audio_hf, _image_classical, _image_learned, _flex, _ntc,
    _taming, _llamagen, _magvit2, _image_hf, _bpe, _utf8,
)  # fmt: skip
"""Modules whose import registers the codecs that come with the package."""
