"""Access to the transformers package, which is an extra."""

from __future__ import annotations

from typing import Any

from tokenloom import lazy

transformers = lazy.load("transformers", "hf")


def from_transformers(name: str) -> Any:
    """Return a class or module of transformers. `name` comes from our allow-lists, never from a checkpoint.

    Raises:
        ValueError: If transformers is not installed, or too old to have it.
    """
    if not hasattr(transformers, name):
        raise ValueError(f"{name} needs a newer transformers than {transformers.__version__}")
    return getattr(transformers, name)
