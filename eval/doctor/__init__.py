"""Examination of one codec: invariances, seams, tokens, bits and costs, each measured and judged."""

from .check import CHECKS
from .records import Checkup
from .run import examine, make, output_files

__all__ = ["CHECKS", "Checkup", "examine", "make", "output_files"]
