"""Data sets as tokens on disk. `tokenize` writes them in shards on any number of machines; `read` returns `Codes`."""

from .dataset import TokenDataset
from .reading import check, is_complete, read, read_index
from .row import TokenRow
from .writing import tokenize

__all__ = ["TokenDataset", "TokenRow", "check", "is_complete", "read", "read_index", "tokenize"]
