"""Token streams, one vocabulary, one transformer and what it generates; diffusion decoders behind the codes."""

from .checkpoint import build, load, names, save
from .diffusion.checkpoint import build as build_decoder
from .diffusion.checkpoint import decoder_for
from .diffusion.checkpoint import names as decoders
from .diffusion.decoder import DiffusionDecoder
from .omni import Omni, Statistics

__all__ = [
    "DiffusionDecoder", "Omni", "Statistics", "build", "build_decoder", "decoder_for", "decoders", "load", "names",
    "save",
]  # fmt: skip
