"""Data sets as tokens on disk: written in shards by `tokenize`, by any number of machines, and read as `Codes`."""

from .reading import Row, check, is_complete, read, read_index
from .writing import tokenize

__all__ = ["Row", "check", "is_complete", "read", "read_index", "tokenize"]
