"""One id space for the codes of several codecs, and the grammar of its documents."""

from .channel import Channel
from .grammar import DocumentState
from .id_space import DOCUMENT, END, PAD, STOP
from .vocabulary import Vocabulary

__all__ = ["DOCUMENT", "END", "PAD", "STOP", "Channel", "DocumentState", "Vocabulary"]
