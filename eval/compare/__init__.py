"""Comparison of codecs: rates, metrics, plots and a report."""

from .comparison import compare, evaluate
from .modelled import ModelledRate
from .results import Results

__all__ = ["ModelledRate", "Results", "compare", "evaluate"]
