"""Statistics of one call of `Omni.generate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property


@dataclass
class Statistics:
    """Tokens, bits and seconds of a call. Lists have one entry per result."""

    seed: int
    prompt_tokens: list[int]
    """Number of ids of the prompt, including the beginning of the requested segment."""
    tokens: list[int]
    """Number of ids sampled for the result."""
    nominal: list[float]
    """Nominal bits of the result's codes."""
    seconds: dict[str, float]
    """Seconds of the stages "encode" (none for a stream, which encodes before), "transformer" and "decode"."""
    tries: int
    """Number of samples from which each result is selected."""
    measure: Callable[[], list[float]] = field(repr=False)
    """Computes `modelled`."""

    @cached_property
    def modelled(self) -> list[float]:
        """Bits of the sampled ids under the model, at temperature 1 without guidance. Computed at first access."""
        return self.measure()


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the duration of a block to that of `stage`."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def cumulative(progress: Callable[[int, int | None], None], total: int | None) -> Callable[[int], None]:
    """Return a function that takes increments and reports their sum and the total to `progress`."""
    done = 0

    def add(new: int) -> None:
        nonlocal done
        done += new
        progress(done, total)

    return add
