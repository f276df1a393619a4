"""Networks in which an output depends on a bounded part of the input, computed block by block."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BLOCK = {1: 2**18, 2: 2**21}
"""Axes of a signal → samples that are computed at once: 33 seconds at 8 kHz, or 1,448 × 1,448 pixels."""
LONGEST = 512
"""Most positions along an axis that `reach` examines."""

Reach = tuple[tuple[int, int], ...]
"""Positions before and after along each axis."""


def reach(
    function: Callable[[Tensor], Tensor], cell: Tensor, taken: Sequence[int], given: Sequence[int]
) -> Reach | None:
    """Return how many positions before and after a position its output depends on; None if there is no bound.

    NaN spreads to all that depends on it, whatever the weights.

    Args:
        function: Maps (1, channels, *(positions · taken)) to (1, features, *(positions · given)).
        cell: An input of one position, (1, channels, *taken).
        taken: Values of a position in the input along each axis.
        given: Values of a position in the output along each axis.
    """
    found = [_along(function, cell, axis, taken[axis], given[axis]) for axis in range(len(taken))]
    return None if None in found else tuple(each for each in found if each is not None)


def _along(
    function: Callable[[Tensor], Tensor], cell: Tensor, axis: int, taken: int, given: int
) -> tuple[int, int] | None:
    positions = 32
    while positions <= LONGEST:
        middle = positions // 2
        inputs = torch.cat([torch.zeros_like(cell)] * positions, axis + 2)
        inputs.narrow(axis + 2, middle * taken, taken).fill_(math.nan)
        spoiled = function(inputs).isnan().movedim(axis + 2, 0).flatten(1).any(1)
        reached = spoiled.unflatten(0, (positions, given)).any(1).nonzero()
        if not len(reached):  # the network hides NaN
            return None
        first, last = int(reached.min()), int(reached.max())
        if first > 0 and last < positions - 1:
            return last - middle, middle - first
        positions *= 4
    return None


def bounded(
    function: Callable[[Tensor], Tensor], x: Tensor, around: Callable[[], Reach | None], taken: Sequence[int],
    given: Sequence[int],
) -> Tensor:  # fmt: skip
    """Compute a function at once, or of a large signal in blocks, so that its size does not matter for the memory.

    Args:
        function: As for `reach`.
        x: The input, (batch, channels, *size).
        around: Returns the reach. Without a bound, everything is computed at once.
        taken: See `reach`.
        given: See `reach`.
    """
    cell = math.prod(taken) * math.prod(given)
    grid = [-(-size // step) for size, step in zip(x.shape[2:], taken, strict=True)]
    if cell * math.prod(grid) <= BLOCK[len(grid)] or (found := around()) is None:
        return function(x)
    side = max(1, int((BLOCK[len(grid)] / cell) ** (1 / len(grid))))
    return in_blocks(function, x, found, [side] * len(grid), taken, given)


def in_blocks(
    function: Callable[[Tensor], Tensor], x: Tensor, around: Reach, block: Sequence[int], taken: Sequence[int],
    given: Sequence[int],
) -> Tensor:  # fmt: skip
    """Compute a function of a bounded reach in blocks, each from the positions that it depends on.

    Args:
        function: As for `reach`.
        x: The input, (batch, channels, *size). The last position along an axis may be incomplete.
        around: The reach.
        block: Positions of a block along each axis.
        taken: See `reach`.
        given: See `reach`.
    """
    grid = [-(-size // step) for size, step in zip(x.shape[2:], taken, strict=True)]
    out = None
    for firsts in itertools.product(*(range(0, n, step) for n, step in zip(grid, block, strict=True))):
        lasts = [min(n, first + step) for n, first, step in zip(grid, firsts, block, strict=True)]
        starts = [max(0, first - before) for first, (before, _) in zip(firsts, around, strict=True)]
        ends = [min(n, last + after) for n, last, (_, after) in zip(grid, lasts, around, strict=True)]
        part = function(x[(..., *map(slice, _times(starts, taken), _times(ends, taken)))])
        before = [first - start for first, start in zip(firsts, starts, strict=True)]
        kept = [last - start for last, start in zip(lasts, starts, strict=True)]
        part = part[(..., *map(slice, _times(before, given), _times(kept, given)))]
        if out is None:
            out = part.new_empty(*part.shape[:2], *_times(grid, given))
        out[(..., *map(slice, _times(firsts, given), _times(lasts, given)))] = part
    assert out is not None
    return out


def _times(positions: Sequence[int], values: Sequence[int]) -> list[int]:
    return [a * b for a, b in zip(positions, values, strict=True)]
