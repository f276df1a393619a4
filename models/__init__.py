"""Token streams, one vocabulary, one transformer, and what it generates."""

from .checkpoint import build, load, names, save
from .omni import Omni, Statistics

__all__ = ["Omni", "Statistics", "build", "load", "names", "save"]
