"""The sources by name, and several sources in one."""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from typing import Any

from tokenloom import errors
from tokenloom.codecs.types import Modality
from tokenloom.registry import Registry

from .containers import folder, tar
from .hub import Hub
from .images import Images
from .phrases import Phrases
from .scenes import Scenes
from .source import Item, Source
from .spoken import Spoken
from .words import Words


class Mix(Source):
    """The items of several sources in order, of any modality. The number of its source precedes each key."""

    name = "mix"

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = list(parts)
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def candidates(self, modality: Modality) -> Sequence[int]:
        starts = [0, *self.ends]
        return [starts[k] + i for k, part in enumerate(self.parts) for i in part.candidates(modality)]

    def contents(self) -> Iterator[tuple[str, int]]:
        return chain.from_iterable(part.contents() for part in self.parts)

    def __getitem__(self, i: int) -> Item:
        k = bisect_right(self.ends, self._check(i))
        item = self.parts[k][i - (self.ends[k - 1] if k else 0)]
        return replace(item, key=f"{k}/{item.key}")


def mix(parts: Sequence[Mapping[str, Any]]) -> Mix:
    """Open several sources as one, each a mapping with `name` and arguments."""
    if isinstance(parts, str | Mapping) or not parts:
        raise ValueError(f"data.parts must be a list such as [{{name: images}}, {{name: phrases}}], got {parts!r}")
    for part in parts:
        if not isinstance(part, Mapping) or "name" not in part:
            raise ValueError(f"data.parts: every part needs a name, got {part!r}")
    return Mix([open_source(**part) for part in parts])


_BUILT_IN: dict[str, Callable[..., Source]] = {
    "folder": folder,
    "tar": tar,
    "images": Images,
    "scenes": Scenes,
    "words": Words,
    "phrases": Phrases,
    "spoken": Spoken,
    "hub": Hub,
    "mix": mix,
}
SOURCES = Registry("data source", _BUILT_IN)
register = SOURCES.register
"""Decorator of a class or function that opens a source: `data=name data.key=value` calls it with the keys."""


def names() -> list[str]:
    """Return the names of all sources."""
    return list(SOURCES)


def open_source(name: str, **kwargs: Any) -> Source:
    """Open a source.

    Args:
        name: One of `names()`.
        kwargs: The keys of `conf/data/<name>.yaml` except `name` and `strict`.

    Raises:
        ValueError: The name or a key is unknown, a key is missing, or a value is out of range.
        FileNotFoundError: A path does not exist.
    """
    make = SOURCES[name]
    parameters = inspect.signature(make).parameters
    if unknown := sorted(set(kwargs) - set(parameters)):
        raise ValueError(f"data source {name} takes no {unknown[0]!r}{errors.choice(unknown[0], parameters)}")
    if kwargs.get("path") == "":
        raise ValueError(f"data source {name} needs data.path, got an empty name")
    required = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    if missing := [key for key in required if kwargs.get(key) is None]:
        raise ValueError(f"data source {name} needs data.{missing[0]}")
    return make(**kwargs)
