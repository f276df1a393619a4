"""`tokenloom compare`: codecs, settings and data sets against each other."""

from .compare import compare

__all__ = ["compare"]
