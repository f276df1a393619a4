"""Comparison of codecs by rate and quality, with plots and a report."""

from .comparison import compare, evaluate
from .modelled import ModelledRate
from .results import Results

__all__ = ["ModelledRate", "Results", "compare", "evaluate"]
