"""Networks along time that depend on a bounded number of frames, computed block by block."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LONGEST = 512
"""Most frames of the signal that `reach` examines."""


def reach(function: Callable[[Tensor], Tensor], x: Tensor, taken: int, given: int) -> tuple[int, int] | None:
    """Return how many frames before and after a frame its output depends on; None if there is no bound.

    NaN spreads to all that depends on it, whatever the weights.

    Args:
        function: Maps (1, channels, frames · taken) to (1, features, frames · given).
        x: An input of one frame, (1, channels, taken).
        taken: Values of a frame in the input.
        given: Values of a frame in the output.
    """
    frames = 32
    while frames <= LONGEST:
        middle, inputs = frames // 2, torch.zeros_like(x).repeat(1, 1, frames)
        inputs[..., middle * taken : (middle + 1) * taken] = math.nan
        reached = function(inputs).isnan().flatten(0, 1).any(0).unflatten(0, (frames, given)).any(1).nonzero()
        first, last = int(reached.min()), int(reached.max())
        if first > 0 and last < frames - 1:
            return last - middle, middle - first
        frames *= 4
    return None


def in_blocks(
    function: Callable[[Tensor], Tensor], x: Tensor, around: tuple[int, int], block: int, taken: int, given: int
) -> Tensor:
    """Compute a function of a bounded reach in blocks, each from the frames that it depends on.

    Args:
        function: As for `reach`.
        x: The input, (batch, channels, samples). The last frame may be incomplete.
        around: The reach.
        block: Frames of a block.
        taken: Values of a frame in the input.
        given: Values of a frame in the output.
    """
    frames, parts = -(-x.shape[-1] // taken), []
    for first in range(0, frames, block):
        start, end = max(0, first - around[0]), min(frames, first + block + around[1])
        out = function(x[..., start * taken : end * taken])
        parts.append(out[..., (first - start) * given : (min(frames, first + block) - start) * given])
    return torch.cat(parts, -1)
