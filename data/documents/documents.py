"""Documents that interleave texts, images and sounds: the training data of the transformer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..sources.source import share
from .emoji import AnalogyDocument, EditDocument, StyleDocument
from .kind import DocumentKind, DocumentPart
from .kinds import CaptionDocument, SeriesDocument, SumDocument
from .library import Library, open_library

KINDS: dict[str, type[DocumentKind]] = {
    kind.name: kind
    for kind in (CaptionDocument, EditDocument, StyleDocument, AnalogyDocument, SeriesDocument, SumDocument)
}


class Documents:
    """An endless sequence of documents. Document g is a pure function of (seed, g).

    Args:
        sources: Name → `name` and arguments of a source: {emoji: {name: tar, path: emoji64-train.tar}}. A folder that
            `tokenloom tokenize` wrote is {name: tokens, path: tokens/photos}.
        kinds: Mappings with `kind` (see `KINDS`), `share` of all documents, and the arguments of the kind:
            [{kind: caption, source: emoji, share: 3}, {kind: edit, source: emoji}].
        copies: Modality → number of copies of each signal, the original included.
        dropout: Share of documents that keep only their last part, for classifier-free guidance.
        folder: Folder of the relative paths in `sources`; None: the working directory.
    """

    name = "documents"

    def __init__(
        self, sources: Mapping[str, Mapping[str, Any]], kinds: Sequence[Mapping[str, Any]],
        copies: Mapping[str, int] | None = None, dropout: float = 0.1, folder: str | None = None,
    ) -> None:  # fmt: skip
        self.dropout = share("data.dropout", dropout)
        self.library = open_library(sources, copies or {}, folder)
        if isinstance(kinds, str | Mapping) or not kinds:
            raise ValueError(f"data.kinds must be a list such as [{{kind: caption, source: …}}], got {kinds!r}")
        built = [_build_kind(self.library, options) for options in kinds]
        self.kinds = [kind for _, kind in built]
        shares = np.array([portion for portion, _ in built], dtype=np.float64)
        self.shares = shares.cumsum() / shares.sum()

    @property
    def uses(self) -> dict[tuple[str, str | None], int]:
        """(source, channel) → number of copies whose tokens the documents need."""
        most: dict[tuple[str, str | None], int] = {}
        for source, channel, copies in (use for kind in self.kinds for use in kind.uses):
            most[source, channel] = max(copies, most.get((source, channel), 0))
        return most

    def draw(self, seed: int, g: int) -> list[DocumentPart]:
        """Return the parts of document g, at least one."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, g])))
        number = int(np.searchsorted(self.shares, rng.random(), side="right"))
        parts = self.kinds[min(number, len(self.kinds) - 1)].draw(rng)
        return [replace(parts[-1], given=False)] if rng.random() < self.dropout else parts


def _build_kind(library: Library, config: Mapping[str, Any]) -> tuple[float, DocumentKind]:
    """Return the share and the kind."""
    options = dict(config) if isinstance(config, Mapping) else {}
    name, portion = options.pop("kind", None), options.pop("share", 1.0)
    if name not in KINDS:
        raise ValueError(f"data.kinds: kind must be one of {', '.join(KINDS)}, got {name!r}")
    if not isinstance(portion, int | float) or isinstance(portion, bool) or not 0 < portion < math.inf:
        raise ValueError(f"data.kinds: the share of {name} must be a positive number, got {portion!r}")
    keys = _arguments(KINDS[name])
    if unknown := sorted(set(options) - set(keys), key=str):
        raise ValueError(f"data.kinds: {name} takes no {unknown[0]!r}; it takes share, {', '.join(keys)}")
    if "source" not in options:
        raise ValueError(f"data.kinds: {name} needs a source, one of {', '.join(library)}")
    return float(portion), KINDS[name](library, **options)


def _arguments(kind: type[DocumentKind]) -> list[str]:
    """Return the arguments of a kind and its base classes."""
    makers = [vars(cls)["__init__"] for cls in kind.__mro__[:-1] if "__init__" in vars(cls)]
    keys = dict.fromkeys(key for maker in makers for key in inspect.signature(maker).parameters)
    return [key for key in keys if key not in ("self", "library", "options")]
