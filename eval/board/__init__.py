"""Leaderboard: the results of many comparisons as one page."""

from .board import make, output_files
from .records import Board

__all__ = ["Board", "make", "output_files"]
