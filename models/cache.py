"""The key-value cache of the transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of the ids seen so far, one row per sequence. See `Transformer.new_cache`.

    Attributes:
        keys: (layers, batch, kv_heads, capacity, head_dim), allocated once and written in place.
        values: The same.
        lengths: int64 (batch,). Number of ids of each row. Set it to cut rows that were padded on the right.
    """

    def __init__(self, config: dict[str, Any], batch: int, capacity: int, like: Tensor) -> None:
        if not 1 <= capacity <= config["context"]:
            raise ValueError(f"the capacity of a cache must be 1 to the context of {config['context']}, got {capacity}")
        shape = (config["layers"], batch, config["kv_heads"], capacity, config["width"] // config["heads"])
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self._rows = torch.arange(batch, device=like.device)[:, None]
        self._positions: Tensor | slice = slice(0, 0)
        self._end = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def advance(self, steps: int) -> tuple[Tensor, Tensor | None]:
        """Reserve `steps` ids per row.

        Returns the positions of the new ids, int64 (batch or 1, steps), and a mask of the keys that they attend to,
        bool (batch, 1, steps, longest row). The mask is None for empty rows, whose attention is causal.
        """
        low, high = (int(n) for n in self.lengths.aminmax())
        self._end = high + steps
        if self._end > self.capacity:
            raise ValueError(f"{self._end} ids do not fit into a cache of {self.capacity}")
        new = torch.arange(steps, device=self.lengths.device)
        positions = self.lengths[:, None] + new
        self._positions = slice(low, low + steps) if low == high else positions
        self.lengths = self.lengths + steps
        if high == 0:
            return positions[:1], None
        seen = torch.arange(self._end, device=new.device) <= positions[:, None, :, None]
        return (positions[:1] if low == high else positions), seen

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (batch, kv_heads, steps, head_dim). Return those of all ids so far."""
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if isinstance(self._positions, slice):
                store[:, :, self._positions] = new
            else:
                store[self._rows, :, self._positions] = new.transpose(1, 2).to(store.dtype)
        return self.keys[layer, :, :, : self._end], self.values[layer, :, :, : self._end]

    def select(self, rows: Tensor) -> None:
        """Keep these rows (int64) in this order; a row may be repeated."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths, self._rows = self.lengths[rows], torch.arange(len(rows), device=rows.device)[:, None]
