"""Two controls that look or sound sharper without knowing more: an unsharp mask, and high-pass noise.

A decoder that is preferred to them by a measure of realism is not preferred for its sharpness alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOSS = 1.0
"""dB of distortion that a control may lose against the plain signal."""
BISECTIONS = 16
NEIGHBOURHOOD = {1: 65, 2: 9}
"""Samples along each axis, by their number: of sounds, of pictures."""
STRONGEST = {"unsharp": 16.0, "noise": 0.5}
DEFINITION = (
    "high pass: the signal minus itself blurred with (1, 2, 1) / 4 along every axis, edges repeated; unsharp: "
    "x + strength * high pass of x; noise: x + high pass of white Gaussian noise of RMS strength (full scale 1), loud "
    f"where the high pass of x is ({NEIGHBOURHOOD[2]}x{NEIGHBOURHOOD[2]} pixels or {NEIGHBOURHOOD[1]} samples around); "
    "each strength fitted on decoded training items so that the high-pass energy equals that of the real ones, or less "
    f"where the loss against plain would exceed {LOSS:g} dB"
)


@dataclass(frozen=True)
class Strength:
    """How strong a control is, and what it came to on the items it was fitted on.

    energy  mean square of the high-pass part, against that of the real signals
    plain   the same of the plain signals; loss  dB against plain
    capped  whether it is weaker than its energy asks for, because of LOSS
    """

    value: float
    energy: float
    plain: float
    loss: float
    capped: bool

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def high_pass(x: Tensor) -> Tensor:
    """(batch, channels, *axes) with one or two axes → what (1, 2, 1) / 4 along every axis takes away."""
    axes = x.ndim - 2
    blurred = F.pad(x, (1, 1) * axes, mode="replicate")
    for axis in range(2, x.ndim):
        before, here, after = (blurred.narrow(axis, start, x.shape[axis]) for start in range(3))
        blurred = (before + after) / 4 + here / 2
    return x - blurred


def unsharp(x: Tensor, strength: float, seeds: Sequence[int] = ()) -> Tensor:
    """(batch, channels, *axes) + strength · its high-pass part, not clamped; nothing in it is random."""
    return x + strength * high_pass(x)


def noise(x: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """(batch, channels, *axes) + high-pass Gaussian noise of RMS `strength` an item, one seed each; not clamped.

    It is loud where the item itself has high-pass energy: harder to tell from detail than noise that is everywhere.
    """
    drawn = [torch.randn(item.shape, generator=torch.Generator().manual_seed(seed)) for item, seed in
             zip(x, seeds, strict=True)]  # fmt: skip
    axes = tuple(range(1, x.ndim))
    level = _local(high_pass(x).square().mean(1, keepdim=True)).sqrt()
    added = level * high_pass(torch.stack(drawn))
    return x + strength * added / added.square().mean(axes, keepdim=True).sqrt().clamp_min(1e-9)


def _local(x: Tensor) -> Tensor:
    """Means over NEIGHBOURHOOD samples around each along the axes of (batch, 1, *axes), edges repeated."""
    size = NEIGHBOURHOOD[x.ndim - 2]
    pool = F.avg_pool1d if x.ndim == 3 else F.avg_pool2d
    return pool(F.pad(x, (size // 2,) * 2 * (x.ndim - 2), mode="replicate"), size, 1)


CONTROLS: dict[str, Callable[[Tensor, float, Sequence[int]], Tensor]] = {"unsharp": unsharp, "noise": noise}


def fit(
    control: str,
    real: Sequence[Tensor],
    plain: Sequence[Tensor],
    distortion: Callable[[Tensor, Tensor], float],
    finish: Callable[[Tensor], Tensor],
    seed: int = 0,
) -> Strength:
    """The strength at which the control's high-pass energy is that of real signals, within LOSS dB of the plain ones.

    real, plain  training items and their decoded versions, (channels, *axes) each
    distortion   (real, decoded) → dB, more is better; finish  clamps and rounds, as a file would
    Energy and loss rise with the strength, so both are found by bisection.
    """
    apply = CONTROLS[control]

    def made(strength: float) -> list[Tensor]:
        return [finish(apply(x[None], strength, [seed + i]))[0] for i, x in enumerate(plain)]

    def decibels(signals: Sequence[Tensor]) -> float:
        values = [distortion(a, b) for a, b in zip(real, signals, strict=True)]
        finite = [v for v in values if math.isfinite(v)]
        return math.fsum(finite) / len(finite) if finite else math.inf

    wanted, before, start = energy(real), energy(plain), decibels(plain)

    def loss(signals: Sequence[Tensor]) -> float:
        return start - decibels(signals) if math.isfinite(start) else 0.0

    strongest = STRONGEST[control]
    matched = bisect(lambda s: energy(made(s)) <= wanted, strongest)
    value = matched if loss(made(matched)) <= LOSS else bisect(lambda s: loss(made(s)) <= LOSS, matched)
    final = made(value)
    share = 1 / wanted if wanted else 0.0
    return Strength(value, energy(final) * share, before * share, loss(final), value < matched)


def bisect(holds: Callable[[float], bool], top: float) -> float:
    """The largest value of 0 … top up to which `holds` is true, to BISECTIONS bits; 0 where it never is."""
    if holds(top):
        return top
    low, high = 0.0, top
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def energy(signals: Sequence[Tensor]) -> float:
    """Mean square of the high-pass part over all samples of (channels, *axes) signals."""
    total = math.fsum(float(high_pass(x[None]).double().square().sum()) for x in signals)
    return total / sum(x.numel() for x in signals)
