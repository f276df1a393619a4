"""Samplers of flows: pure functions from noise at time 0 to data at time 1.

A flow is an ordinary differential equation dz/dt = v(z, t) that carries noise to data (Lipman et al., arXiv
2210.02747; Liu et al., arXiv 2209.03003). `velocity(z, t)` returns v. `average(z, t, d)` returns the mean velocity of
the path from z at time t to time t + d, so z + d · average(z, t, d) is the end of that path (Frans et al., arXiv
2410.12557; Geng et al., arXiv 2505.13447). t and d are floats, z is a tensor of any shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tokenloom.codecs.validate import require_integer

MAX_STEPS = 1000


def times(steps: int) -> list[float]:
    """Return steps + 1 equidistant times from 0 to 1.

    Raises:
        ValueError: If steps is not an integer from 1 to 1000.
    """
    require_integer("steps", steps, 1, MAX_STEPS)
    return [i / steps for i in range(steps + 1)]


def check_seed(seed: int) -> None:
    """Raise ValueError unless `seed` is a seed of the random generators."""
    require_integer("seed", seed, 0, 2**63 - 1)


def noise(seed: int, item: int, shape: Sequence[int]) -> Tensor:
    """Return standard normal noise, a function of (seed, item). It is drawn on the CPU, so all devices agree."""
    mixed = int(np.random.SeedSequence([seed, item]).generate_state(1, np.uint64)[0]) >> 1
    return torch.randn(*shape, generator=torch.Generator().manual_seed(mixed))


def euler(velocity: Callable[[Tensor, float], Tensor], z: Tensor, times: list[float]) -> Tensor:
    """Integrate to first order, with one evaluation per step."""
    for start, end in itertools.pairwise(times):
        z = z + (end - start) * velocity(z, start)
    return z


def heun(velocity: Callable[[Tensor, float], Tensor], z: Tensor, times: list[float]) -> Tensor:
    """Integrate to second order, with two evaluations per step (Karras et al., arXiv 2206.00364, algorithm 1)."""
    for start, end in itertools.pairwise(times):
        first = velocity(z, start)
        second = velocity(z + (end - start) * first, end)
        z = z + (end - start) * (first + second) / 2
    return z


def shortcut(average: Callable[[Tensor, float, float], Tensor], z: Tensor, times: list[float]) -> Tensor:
    """Jump along the path. Exact for any number of steps if `average` is exact."""
    for start, end in itertools.pairwise(times):
        z = z + (end - start) * average(z, start, end - start)
    return z
