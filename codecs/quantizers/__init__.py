"""Quantizers behind one three-method protocol (see base.py)."""

from .base import MAX_CODEBOOK, MAX_DIM, MAX_QUANTIZERS, Quantized, Quantizer
from .binary import BSQ
from .fsq import FSQ
from .vector import ResidualVQ

__all__ = ["BSQ", "FSQ", "MAX_CODEBOOK", "MAX_DIM", "MAX_QUANTIZERS", "Quantized", "Quantizer", "ResidualVQ"]
