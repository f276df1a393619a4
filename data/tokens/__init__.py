"""Data sets as tokens on disk: written in shards by `tokenize`, by any number of machines, and read as `Codes`."""

from .reading import check, is_complete, read, read_index
from .row import TokenRow
from .writing import tokenize

__all__ = ["TokenRow", "check", "is_complete", "read", "read_index", "tokenize"]
