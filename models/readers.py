"""Hidden states after the last id of every row, updated id by id: with a cache, and without one for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .transformer import Transformer


class PlaceGrammar(Protocol):
    """The part of a vocabulary that readers need."""

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return kind and place after each id."""


class CachedReader:
    """Keeps `hidden` (rows, width) up to date with a key-value cache; rows are those of all sides in order."""

    def __init__(self, transformer: Transformer, grammar: PlaceGrammar, sides: list, limit: int) -> None:
        self.transformer = transformer
        device = transformer.embedding.weight.device
        rows = [row for side in sides for row in side]
        keys = [tuple(row.tolist()) for row in rows]
        unique = {key: row for key, row in zip(keys, rows, strict=True)}  # equal prompts are read once
        number = {key: i for i, key in enumerate(unique)}
        lengths = torch.tensor([len(row) for row in unique.values()], device=device)
        capacity = min(int(lengths.max()) + limit, transformer.config["context"])
        self.cache = transformer.new_cache(len(unique), capacity)
        ids = _pad(unique.values(), device)
        places = _pad([grammar.states(row)[1] for row in unique.values()], device)
        hidden = transformer(ids, places, cache=self.cache)
        if not hidden.isfinite().all():
            raise ValueError("the transformer's hidden states are not finite: its weights are damaged")
        self.cache.lengths = lengths
        index = torch.tensor([number[key] for key in keys], device=device)
        self.hidden = hidden[torch.arange(len(unique), device=device), lengths - 1][index]
        self.cache.select(index)

    def feed(self, ids: list[int], places: list[int]) -> None:
        """Append one id to each row; `places` are those of the ids after it."""
        new = torch.tensor([ids, places], device=self.hidden.device)[:, :, None]
        self.hidden = self.transformer(new[0], new[1], cache=self.cache)[:, 0]

    def keep(self, rows: list[int]) -> None:
        """Keep these rows. `feed` must follow."""
        self.cache.select(torch.tensor(rows, dtype=torch.int64, device=self.hidden.device))


class UncachedReader:
    """Does the same by reading all ids again at each step."""

    def __init__(self, transformer: Transformer, grammar: PlaceGrammar, sides: list, limit: int) -> None:
        self.transformer = transformer
        self.rows = [torch.stack([row, grammar.states(row)[1]], 1) for side in sides for row in side]
        self._read()

    def _read(self) -> None:
        device = self.transformer.embedding.weight.device
        both = _pad(self.rows, device)
        last = torch.tensor([len(row) - 1 for row in self.rows], device=device)
        hidden = self.transformer(both[..., 0], both[..., 1])
        self.hidden = hidden[torch.arange(len(last), device=device), last]

    def feed(self, ids: list[int], places: list[int]) -> None:
        new = torch.tensor([ids, places]).T[:, None]
        self.rows = [torch.cat([row, one]) for row, one in zip(self.rows, new, strict=True)]
        self._read()

    def keep(self, rows: list[int]) -> None:
        self.rows = [self.rows[i] for i in rows]


def _pad(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(device)
