"""Omni models: one transformer over the tokens of several codecs."""

from .model import Omni
from .statistics import Statistics

__all__ = ["Omni", "Statistics"]
