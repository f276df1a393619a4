"""Documents of texts, pictures and sounds in a row, drawn from captioned sources: what a transformer learns from."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokenloom.codecs.types import Modality

from ..sources.source import Source, at_least
from .kinds import KINDS, Kind, Part

__all__ = ["Documents", "Library", "Part"]


@dataclass(frozen=True)
class Library:
    """What documents are made of: sources by name, and the captions of all their items, read once."""

    sources: dict[str, Source]
    captions: dict[str, list[str]]
    modalities: dict[str, Modality]
    copies: dict[Modality, int]
    """How many copies of each signal there are (see variants.py), the original included."""


class Documents:
    """Endless documents; document g is a pure function of (seed, g).

    sources  name → a source's `name` and its own keys: {emoji: {name: tar, path: emoji64-train.tar}}
    kinds    mappings with the `kind` of a document (see kinds.py), its `share` of all, and its own
             keys: [{kind: caption, source: emoji, share: 3}, {kind: edit, source: emoji}]
    copies   modality → how many copies of each signal there are, the original included
    dropout  the share of documents that keep nothing but their last part: what guidance needs
    folder   where the sources' relative paths begin; None: the working directory
    """

    name = "documents"

    def __init__(
        self, sources: Mapping[str, Mapping[str, Any]], kinds: Sequence[Mapping[str, Any]],
        copies: Mapping[str, int] | None = None, dropout: float = 0.1, folder: str | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"data.dropout {dropout!r} is not a share within 0 to 1")
        self.nodes = _nodes(sources, folder)
        self.library = _library(self.nodes, copies or {})
        self.dropout = dropout
        if isinstance(kinds, str | Mapping) or not kinds:
            raise ValueError(f"data.kinds {kinds!r} is not a list such as [{{kind: caption, source: …}}]")
        self.kinds = [_kind(self.library, given) for given in kinds]
        shares = np.array([share for share, _ in self.kinds], dtype=np.float64)
        self.shares = shares.cumsum() / shares.sum()

    @property
    def uses(self) -> dict[tuple[str, str | None], int]:
        """Every (source, channel) whose tokens are needed, and of how many copies."""
        most: dict[tuple[str, str | None], int] = {}
        for source, channel, copies in (kind.uses for _, kind in self.kinds):
            most[source, channel] = max(copies, most.get((source, channel), 0))
        return most

    def draw(self, seed: int, g: int) -> list[Part]:
        """Document g, at least one part."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, g])))
        which = int(np.searchsorted(self.shares, rng.random(), side="right"))
        parts = self.kinds[min(which, len(self.kinds) - 1)][1].draw(rng)
        return [replace(parts[-1], given=False)] if rng.random() < self.dropout else parts


def _nodes(given: Mapping[str, Mapping[str, Any]], folder: str | None) -> dict[str, dict[str, Any]]:
    """Every source's own keys, with its path where it lies."""
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"data.sources {given!r} is no mapping such as {{emoji: {{name: tar, path: …}}}}")
    nodes = {}
    for name, node in given.items():
        if not isinstance(node, Mapping) or "name" not in node:
            raise ValueError(f"data.sources.{name}: {node!r} lacks a name")
        below = {"path": os.path.join(folder, str(node["path"]))} if folder and "path" in node else {}
        nodes[str(name)] = {**node, **below}
    return nodes


def _library(nodes: Mapping[str, Mapping[str, Any]], copies: Mapping[str, int]) -> Library:
    from .. import open_source

    sources, captions, modalities = {}, {}, {}
    for name, node in nodes.items():
        source = sources[name] = open_source(**node)
        items = list(source.items(strict=True))  # a broken item would shift the numbers of those after it
        captions[name], modalities[name] = [item.caption for item in items], items[0].modality
        if stray := [item.key for item in items if item.modality is not modalities[name]]:
            raise ValueError(f"data.sources.{name}: {stray[0]} is of another modality than the first item")
    if not isinstance(copies, Mapping):
        raise ValueError(f"data.copies {copies!r:.80} is no mapping such as {{image: 8, audio: 4}}")
    wrong = set(copies) - {str(modality) for modality in (Modality.IMAGE, Modality.AUDIO)}
    if wrong:
        raise ValueError(f"data.copies of {wrong.pop()!r}: only image and audio have copies")
    return Library(
        sources, captions, modalities, {m: at_least(f"data.copies.{m}", copies.get(m, 1), 1) for m in Modality}
    )


def _kind(library: Library, given: Mapping[str, Any]) -> tuple[float, Kind]:
    options = dict(given) if isinstance(given, Mapping) else {}
    name, share = options.pop("kind", None), options.pop("share", 1.0)
    if name not in KINDS:
        raise ValueError(f"data.kinds: {name!r} is none of {', '.join(KINDS)}")
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share < math.inf:
        raise ValueError(f"data.kinds: the share {share!r} of {name} is no positive number")
    keys = _keys(KINDS[name])
    if unknown := sorted(set(options) - set(keys), key=str):
        raise ValueError(f"data.kinds: {name} takes no {unknown[0]!r}; it takes share, {', '.join(keys)}")
    if "source" not in options:
        raise ValueError(f"data.kinds: {name} needs a source, one of {', '.join(library.sources)}")
    return float(share), KINDS[name](library, **options)


def _keys(kind: type[Kind]) -> list[str]:
    """The keys that a kind takes, its own and those of what it derives from."""
    makers = [vars(cls)["__init__"] for cls in kind.__mro__[:-1] if "__init__" in vars(cls)]
    keys = dict.fromkeys(key for maker in makers for key in inspect.signature(maker).parameters)
    return [key for key in keys if key not in ("self", "library", "options")]
