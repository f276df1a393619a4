"""Quantizers. base.py defines their protocol."""

from .base import MAX_CODEBOOK, MAX_DIM, MAX_QUANTIZERS, Quantized, Quantizer
from .binary import BSQ, LFQ
from .deadzone import DeadZone
from .fsq import FSQ
from .vector import ResidualVQ

__all__ = [
    "BSQ", "FSQ", "LFQ", "MAX_CODEBOOK", "MAX_DIM", "MAX_QUANTIZERS", "DeadZone", "Quantized", "Quantizer",
    "ResidualVQ",
]  # fmt: skip
