"""Models of codes: a transformer over one vocabulary for several codecs, and diffusion decoders."""

from .checkpoint import load, names, save
from .diffusion.decoder import DiffusionDecoder, decoder_for
from .diffusion.decoder import build as build_decoder
from .diffusion.decoder import names as decoders
from .omni.conversation import Conversation
from .omni.familiarity import UnfamiliarPromptWarning
from .omni.model import Omni, build
from .omni.statistics import Statistics
from .omni.streaming import StreamedPiece

__all__ = [
    "Conversation", "DiffusionDecoder", "Omni", "Statistics", "StreamedPiece", "UnfamiliarPromptWarning", "build",
    "build_decoder", "decoder_for", "decoders", "load", "names", "save",
]  # fmt: skip
