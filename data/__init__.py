"""Sources of signals: files, generators and data sets of the Hugging Face hub, opened by name."""

from .sources.registry import names, open_source, register
from .sources.source import BrokenItem, Item, Source

__all__ = ["BrokenItem", "Item", "Source", "names", "open_source", "register"]
