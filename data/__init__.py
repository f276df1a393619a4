"""Where signals come from: files, generators, the hub, behind one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .sources.files import folder, tar
from .sources.hub import Hub
from .sources.images import Images
from .sources.mix import Mix
from .sources.phrases import Phrases
from .sources.scenes import Scenes
from .sources.source import BrokenItem, Item, Source
from .sources.words import Words

__all__ = ["BrokenItem", "Item", "Source", "names", "open_source"]

_SOURCES: dict[str, Callable[..., Source]] = {
    "folder": folder,
    "tar": tar,
    "images": Images,
    "scenes": Scenes,
    "words": Words,
    "phrases": Phrases,
    "hub": Hub,
    "mix": Mix,
}


def names() -> list[str]:
    """The sources there are."""
    return list(_SOURCES)


def open_source(name: str, **kwargs: Any) -> Source:
    """A source by name, with the keys of `conf/data/<name>.yaml`.

    Raises a one-line ValueError for a name or key that does not exist, or a value out of range,
    and FileNotFoundError where a path leads nowhere.
    """
    if name not in _SOURCES:
        raise ValueError(f"data source {name!r} is none of {', '.join(names())}")
    make = _SOURCES[name]
    parameters = inspect.signature(make).parameters
    if unknown := sorted(set(kwargs) - set(parameters)):
        raise ValueError(f"data source {name} takes no {unknown[0]!r}; it takes {', '.join(parameters)}")
    required = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    if missing := [key for key in required if kwargs.get(key) is None]:
        raise ValueError(f"data source {name} needs data.{missing[0]}")
    return make(**kwargs)
