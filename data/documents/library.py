"""The sources of documents, with the captions of all their items."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenloom.codecs.types import Modality

from ..sources.registry import open_source
from ..sources.source import Source, at_least
from ..tokens import reading

TOKENS = "tokens"
"""Source that is a folder written by `tokenloom tokenize`: {name: tokens, path: tokens/photos}."""


@dataclass(frozen=True)
class CaptionedSource:
    """A source with the modality and captions of its items, and the number of copies of each.

    `config` holds its name and arguments. `source` is None for a folder of tokens.
    """

    config: dict[str, Any]
    modality: Modality
    captions: list[str]
    copies: int
    source: Source | None


Library = Mapping[str, CaptionedSource]
"""Sources by name."""


def open_library(
    sources: Mapping[str, Mapping[str, Any]], copies: Mapping[str, int], folder: str | None
) -> dict[str, CaptionedSource]:
    """Open sources and read the captions of all items. For the arguments see `Documents`."""
    if not isinstance(sources, Mapping) or not sources:
        raise ValueError(f"data.sources must be a mapping such as {{emoji: {{name: tar, path: …}}}}, got {sources!r}")
    for name, config in sources.items():
        if not isinstance(config, Mapping) or "name" not in config:
            raise ValueError(f"data.sources.{name} needs a name, got {config!r}")
    if not isinstance(copies, Mapping):
        raise ValueError(f"data.copies must be a mapping such as {{image: 8, audio: 4}}, got {copies!r:.80}")
    if unknown := set(copies) - {str(Modality.IMAGE), str(Modality.AUDIO)}:
        raise ValueError(f"data.copies: only image and audio have copies, got {unknown.pop()!r}")
    checked = {m: at_least(f"data.copies.{m}", copies.get(m, 1), 1) for m in Modality}
    library = {}
    for name, config in sources.items():
        below = {"path": os.path.join(folder, str(config["path"]))} if folder and "path" in config else {}
        open_ = _open_tokens if config["name"] == TOKENS else _open_signals
        library[str(name)] = open_(str(name), {**config, **below}, checked)
    return library


def _open_signals(name: str, config: dict[str, Any], copies: Mapping[Modality, int]) -> CaptionedSource:
    source = open_source(**config)
    # without a broken item, those after it would have other numbers; the signals would fill the memory
    items = [replace(item, signal=None) for item in source.items(strict=True)]
    modality = items[0].modality
    if stray := [item.key for item in items if item.modality is not modality]:
        raise ValueError(f"data.sources.{name}: all items must have one modality, {stray[0]} has another")
    return CaptionedSource(config, modality, [item.caption for item in items], copies[modality], source)


def _open_tokens(name: str, config: dict[str, Any], _: Mapping[Modality, int]) -> CaptionedSource:
    if unknown := sorted(set(config) - {"name", "path"}):
        raise ValueError(f"data.sources.{name}: {TOKENS} takes no {unknown[0]!r}; it takes path")
    if "path" not in config:
        raise ValueError(f"data.sources.{name} needs a path, a folder written by tokenloom tokenize")
    captions = [row.caption for row in reading.read(config["path"])]
    modality = Modality(reading.read_index(config["path"])["spec"]["modality"])
    return CaptionedSource(config, modality, captions, 1, None)
