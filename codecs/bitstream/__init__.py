"""Bitstreams: one self-describing container of bytes per item."""

from .container import decode, fingerprint, read, write

__all__ = ["decode", "fingerprint", "read", "write"]
