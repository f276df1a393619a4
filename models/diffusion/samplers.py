"""Samplers of flows: pure functions from noise at time 0 to data at time 1.

A flow is an ordinary differential equation dz/dt = v(z, t) that carries noise to data (Lipman et al., arXiv
2210.02747; Liu et al., arXiv 2209.03003). `velocity(z, t)` gives v; `average(z, t, d)` gives the mean velocity of the
path that leads from z at time t to time t + d, so that z + d · average(z, t, d) is where the flow is then
(Frans et al., arXiv 2410.12557; Geng et al., arXiv 2505.13447). t and d are floats, z a tensor of any shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor

MOST_STEPS = 1000


def times(steps: int) -> list[float]:
    """steps + 1 times from 0 to 1, equally far apart; ValueError where steps is no whole number from 1 to 1000."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps {steps!r} is no whole number from 1 to {MOST_STEPS}")
    return [i / steps for i in range(steps + 1)]


def euler(velocity: Callable[[Tensor, float], Tensor], z: Tensor, times: list[float]) -> Tensor:
    """First order: one evaluation a step, error of the order of a step."""
    for start, end in itertools.pairwise(times):
        z = z + (end - start) * velocity(z, start)
    return z


def heun(velocity: Callable[[Tensor, float], Tensor], z: Tensor, times: list[float]) -> Tensor:
    """Second order (the trapezoid rule, as in Karras et al., arXiv 2206.00364, algorithm 1): two evaluations a step."""
    for start, end in itertools.pairwise(times):
        first = velocity(z, start)
        second = velocity(z + (end - start) * first, end)
        z = z + (end - start) * (first + second) / 2
    return z


def shortcut(average: Callable[[Tensor, float, float], Tensor], z: Tensor, times: list[float]) -> Tensor:
    """Jumps along the path itself: exact for any number of steps where `average` is."""
    for start, end in itertools.pairwise(times):
        z = z + (end - start) * average(z, start, end - start)
    return z
