"""Reasons why a metric has no value."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch


class Unmeasurable(ValueError):
    """A metric has no value on an item, for the reason in the message. Such items are counted, never imputed."""


def missing_package(name: str, extra: str) -> str | None:
    """Return the reason why a metric's package cannot be imported, or None."""
    if find_spec(name):
        return None
    return f"the package {name.replace('_', '-')} is not installed (pip install 'tokenloom[{extra}]')"


def missing_weights(filename: str) -> str | None:
    """Return the reason why a file of weights is missing, or None if the local torch hub cache has it."""
    return None if hub_file(filename).is_file() else f"its weights {filename} are not in the local torch hub cache"


def hub_file(filename: str) -> Path:
    """Return the path of a file of weights in the local torch hub cache. The file need not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints" / filename
