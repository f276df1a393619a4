"""Order of the tokens of `image/flex`, and allocation of tokens to tiles.

A row lists tokens by rank: the first token of every tile, then the second of every tile, and so on. The entry `end`
follows the last token of a tile that has fewer tokens than others. A row ends after the last token of all tiles.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def by_tile(row: Tensor, tiles: int, tokens: int, end: int) -> Tensor:
    """Sort a row into a table (tiles, tokens), int64. −1 marks a missing token."""
    table = row.new_full((tiles, tokens), -1)
    alive, position = torch.arange(tiles, device=row.device), 0
    for rank in range(tokens):
        symbols = row[position : position + len(alive)]
        position += len(symbols)
        continues = symbols != end
        alive = alive[: len(symbols)][continues]
        table[alive, rank] = symbols[continues]
        if not len(alive):
            break
    return table


def by_rank(table: Tensor, counts: Tensor, end: int) -> Tensor:
    """Return the shortest row with the first counts[t] tokens of each tile t of a table (tiles, tokens)."""
    rank = torch.arange(table.shape[1], device=table.device)
    marked = table.where(rank < counts[:, None], end).T[rank[:, None] <= counts]
    return marked[: int((marked != end).nonzero().max()) + 1]


def row_length(counts: list[int]) -> int:
    """Return the length of the row that `by_rank` returns, `end` entries included."""
    most = max(counts)
    last = len(counts) - counts[::-1].index(most)
    return sum(counts) + sum(n < most - 1 for n in counts) + counts[:last].count(most - 1)


class Refinement(NamedTuple):
    """Additional tokens of one tile, and the squared error that they remove."""

    tile: int
    tokens: int
    gain: float

    @property
    def slope(self) -> float:
        """Squared error that one token removes."""
        return self.gain / self.tokens


def refinements(errors: list[list[float]]) -> list[Refinement]:
    """Return steps from one token per tile to all of them, the largest gain per token first.

    Args:
        errors: Squared error of each tile with 1, 2, … tokens. The steps follow the lower convex hull of each row.
    """
    steps: list[Refinement] = []
    for tile, row in enumerate(errors):
        hull: list[Refinement] = []
        for i in range(1, len(row)):
            step = Refinement(tile, 1, row[i - 1] - row[i])
            while hull and step.slope >= hull[-1].slope:
                last = hull.pop()
                step = Refinement(tile, last.tokens + step.tokens, last.gain + step.gain)
            hull.append(step)
        steps += [step for step in hull if step.gain > 0]
    return sorted(steps, key=lambda step: -step.slope)
