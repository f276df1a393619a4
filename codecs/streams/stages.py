"""Networks along time as functions with state, which get a signal piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..layers.spans import Reach


class Stage(Protocol):
    """A network along time, with what it remembers of earlier pieces."""

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        """Take the next piece (batch, channels, samples), and return the outputs that it completes; None for none.

        `last` says that nothing follows, so that the rest comes out.
        """
        ...


class Chain:
    """Stage of stages that follow each other."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        for each in self.stages:
            x = each(x, last)
        return x


class Windows:
    """Stage of a network of a bounded reach: it computes new outputs from the inputs that they depend on.

    Args:
        function: Maps (batch, channels, frames · taken) to (batch, features, frames · given).
        reach: Frames before and after a frame on which its output depends.
        taken: Values of a frame in the input. Only the last frame may be incomplete.
        given: Values of a frame in the output.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], reach: Reach, taken: int, given: int) -> None:
        self.function, self.taken, self.given = function, taken, given
        ((self.before, self.after),) = reach
        self.held: Tensor | None = None
        self.done = 0
        """Frames of `held` whose outputs were returned."""

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        held = joined(self.held, x)
        if held is None:
            return None
        frames = -(-held.shape[-1] // self.taken) if last else held.shape[-1] // self.taken - self.after
        out = None
        if frames > self.done:
            end = min(held.shape[-1], (frames + self.after) * self.taken)
            out = self.function(held[..., :end])[..., self.done * self.given : frames * self.given]
            self.done = frames
        dropped = max(0, self.done - self.before)
        self.held, self.done = held[..., dropped * self.taken :].clone(), self.done - dropped
        return out


def joined(first: Tensor | None, then: Tensor | None) -> Tensor | None:
    """Join two pieces along time, of which each may be missing."""
    if first is None or then is None:
        return then if first is None else first
    return torch.cat([first, then], -1)
