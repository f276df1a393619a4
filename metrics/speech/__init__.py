"""Metrics of speech: beside the original, of a sound alone, of the voice, and of what a recognizer hears."""

from .pairs import pesq, stoi, visqol

__all__ = ["pesq", "stoi", "visqol"]
