"""Samplers against a flow in closed form, from one Gaussian to another."""

from __future__ import annotations

import math

import pytest
import torch
from support.codecs import one_line

from tokenloom.models.diffusion import samplers

START, MEAN, SPREAD = 0.7, 1.5, 2.0


def variance(t: float) -> float:
    return (1 - t) ** 2 * START**2 + t**2 * SPREAD**2


def where(z0: torch.Tensor, t: float) -> torch.Tensor:
    """The state at time t of the path from z0, which keeps its quantile while mean and deviation change."""
    return t * MEAN + z0 * math.sqrt(variance(t)) / START


def velocity(z: torch.Tensor, t: float) -> torch.Tensor:
    """E[r − START · ε | z] of jointly Gaussian variables."""
    return MEAN + (t * SPREAD**2 - (1 - t) * START**2) / variance(t) * (z - t * MEAN)


def average(z: torch.Tensor, t: float, d: float) -> torch.Tensor:
    z0 = (z - t * MEAN) * START / math.sqrt(variance(t))
    return (where(z0, t + d) - z) / d


def error(sampler, flow, steps: int) -> float:
    z0 = START * torch.linspace(-2, 2, 41, dtype=torch.float64)
    return (sampler(flow, z0, samplers.times(steps)) - where(z0, 1.0)).abs().max().item()


@pytest.mark.parametrize(("sampler", "order"), [(samplers.euler, 1), (samplers.heun, 2)])
def test_the_error_falls_with_the_order_of_the_sampler(sampler, order):
    coarse, fine = error(sampler, velocity, 64), error(sampler, velocity, 128)
    assert fine < (0.1 if order == 1 else 0.002)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_heun_with_half_the_steps_is_closer_than_euler():
    assert error(samplers.heun, velocity, 10) < error(samplers.euler, velocity, 20) / 3


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 50])
def test_jumps_along_the_path_are_exact_for_any_number_of_steps(steps):
    assert error(samplers.shortcut, average, steps) < 1e-9


def test_samples_have_the_mean_and_the_spread_of_the_data():
    z0 = START * torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = samplers.heun(velocity, z0, samplers.times(50))
    assert z.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert z.std().item() == pytest.approx(SPREAD, rel=0.01)


def test_samplers_are_pure():
    z0 = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    before = z0.clone()
    for sampler, flow in ((samplers.euler, velocity), (samplers.heun, velocity), (samplers.shortcut, average)):
        assert torch.equal(sampler(flow, z0, samplers.times(3)), sampler(flow, z0, samplers.times(3)))
        assert torch.equal(z0, before)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, True, "4", None])
def test_invalid_steps_are_one_line(steps):
    with pytest.raises(ValueError, match="steps") as error:
        samplers.times(steps)
    assert one_line(error)


def test_times_go_from_noise_to_data():
    assert samplers.times(4) == [0, 0.25, 0.5, 0.75, 1]
    assert samplers.times(1) == [0, 1]
