"""Several sources, one after the other."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from .source import Item, Source


class Mix(Source):
    """The items of all parts in order; modalities may mix. Keys get their part's number in front.

    parts  mappings of a source's `name` and its own keys: [{name: images}, {name: phrases, count: 8}]
    """

    name = "mix"

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        from .. import open_source

        if isinstance(parts, str | Mapping) or not parts:
            raise ValueError(f"data.parts {parts!r} is not a list such as [{{name: images}}, {{name: phrases}}]")
        for part in parts:
            if not isinstance(part, Mapping) or "name" not in part:
                raise ValueError(f"data.parts: {part!r} lacks a name")
        self.parts = [open_source(**part) for part in parts]
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, i: int) -> Item:
        k = bisect_right(self.ends, self._check(i))
        item = self.parts[k][i - (self.ends[k - 1] if k else 0)]
        return dataclasses.replace(item, key=f"{k}/{item.key}")
