"""Access to the optional package transformers."""

from __future__ import annotations

from typing import Any

from tokenloom import lazy

transformers = lazy.load("transformers", "hf")


def from_transformers(name: str) -> Any:
    """Return a class or module of transformers. `name` must come from an allow-list, never from a checkpoint.

    Raises:
        ValueError: If transformers is not installed, or its release does not have the name.
    """
    if not hasattr(transformers, name):
        raise ValueError(f"{name} needs a newer transformers than {transformers.__version__}")
    return getattr(transformers, name)
