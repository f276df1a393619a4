"""Access to the transformers package, which is an extra."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from tokenloom import errors


def from_transformers(name: str) -> Any:
    """Return a class or module of transformers. `name` comes from our allow-lists, never from a checkpoint.

    Raises:
        ValueError: If transformers is not installed, or too old to have it.
    """
    if importlib.util.find_spec("transformers") is None:
        raise errors.missing("transformers", "hf")
    # not lazy.load: on import, transformers replaces itself in sys.modules, and a lazy module cannot follow
    transformers = importlib.import_module("transformers")
    if not hasattr(transformers, name):
        raise ValueError(f"{name} needs a newer transformers than {transformers.__version__}")
    return getattr(transformers, name)
