"""Controls: an unsharp mask and high-pass noise, which add sharpness to plain signals but no information.

A decoder that beats both in a measure of realism is not better by sharpness alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOSS = 1.0
"""Largest loss of PSNR against the plain signal in dB."""
BISECTIONS = 16
NEIGHBORHOOD = {1: 65, 2: 9}
"""Number of axes (1: audio, 2: images) → side of the window of the local high-pass energy, in samples."""
STRONGEST = {"unsharp": 16.0, "noise": 0.5}
DEFINITION = (
    "high pass: the signal minus itself blurred with (1, 2, 1) / 4 along every axis, edges repeated; unsharp: "
    "x + strength * high pass of x; noise: x + high pass of white Gaussian noise of RMS strength (full scale 1), "
    f"weighted by the local high-pass energy of x ({NEIGHBORHOOD[2]}x{NEIGHBORHOOD[2]} pixels or {NEIGHBORHOOD[1]} "
    "samples); each strength is fitted on decoded training items: the high-pass energy equals that of the real items, "
    f"or less if the loss against plain would exceed {LOSS:g} dB"
)


@dataclass(frozen=True)
class ControlStrength:
    """Strength (`value`) of a control, and its effect on the fitted items.

    `energy` and `plain` are the high-pass energies with the control and without it, relative to the real signals.
    `loss` is the loss of PSNR against plain in dB. `capped` is True if LOSS limits the strength.
    """

    value: float
    energy: float
    plain: float
    loss: float
    capped: bool


def high_pass(x: Tensor) -> Tensor:
    """Return a signal (batch, channels, *axes) minus itself blurred with (1, 2, 1) / 4 along its one or two axes."""
    axes = x.ndim - 2
    blurred = F.pad(x, (1, 1) * axes, mode="replicate")
    for axis in range(2, x.ndim):
        before, here, after = (blurred.narrow(axis, start, x.shape[axis]) for start in range(3))
        blurred = (before + after) / 4 + here / 2
    return x - blurred


def unsharp(x: Tensor, strength: float, seeds: Sequence[int] = ()) -> Tensor:
    """Add the high-pass part times `strength` to (batch, channels, *axes), not clamped. `seeds` are not used."""
    return x + strength * high_pass(x)


def noise(x: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """Add high-pass Gaussian noise with RMS `strength` to each item of (batch, channels, *axes), not clamped.

    Its level follows the local high-pass energy of the item, which makes it look more like detail.
    """
    drawn = [torch.randn(item.shape, generator=torch.Generator().manual_seed(seed)) for item, seed in
             zip(x, seeds, strict=True)]  # fmt: skip
    axes = tuple(range(1, x.ndim))
    level = _local(high_pass(x).square().mean(1, keepdim=True)).sqrt()
    added = level * high_pass(torch.stack(drawn))
    return x + strength * added / added.square().mean(axes, keepdim=True).sqrt().clamp_min(1e-9)


def _local(x: Tensor) -> Tensor:
    """Return local means of (batch, 1, *axes) over NEIGHBORHOOD samples along each axis, edges repeated."""
    size = NEIGHBORHOOD[x.ndim - 2]
    pool = F.avg_pool1d if x.ndim == 3 else F.avg_pool2d
    return pool(F.pad(x, (size // 2,) * 2 * (x.ndim - 2), mode="replicate"), size, 1)


CONTROLS: dict[str, Callable[[Tensor, float, Sequence[int]], Tensor]] = {"unsharp": unsharp, "noise": noise}


def fit(
    control: str,
    real: Sequence[Tensor],
    plain: Sequence[Tensor],
    psnr: Callable[[Tensor, Tensor], float],
    quantize: Callable[[Tensor], Tensor],
    seed: int = 0,
) -> ControlStrength:
    """Find the strength with the high-pass energy of real signals, or with a loss of LOSS dB if that is less.

    Energy and loss rise with the strength, and bisection finds both.

    Args:
        control: Name in CONTROLS.
        real: Training signals (channels, *axes).
        plain: The same signals from the plain decoder.
        psnr: PSNR of two signals in dB.
        quantize: Clamps and rounds a signal as in a file.
        seed: Seed of the noise.
    """
    apply = CONTROLS[control]

    def controlled(strength: float) -> list[Tensor]:
        return [quantize(apply(x[None], strength, [seed + i]))[0] for i, x in enumerate(plain)]

    def decibels(signals: Sequence[Tensor]) -> float:
        values = [psnr(a, b) for a, b in zip(real, signals, strict=True)]
        finite = [v for v in values if math.isfinite(v)]
        return math.fsum(finite) / len(finite) if finite else math.inf

    target, before, start = energy(real), energy(plain), decibels(plain)

    def loss(signals: Sequence[Tensor]) -> float:
        return start - decibels(signals) if math.isfinite(start) else 0.0

    strongest = STRONGEST[control]
    matched = bisect(lambda s: energy(controlled(s)) <= target, strongest)
    value = matched if loss(controlled(matched)) <= LOSS else bisect(lambda s: loss(controlled(s)) <= LOSS, matched)
    final = controlled(value)
    share = 1 / target if target else 0.0
    return ControlStrength(value, energy(final) * share, before * share, loss(final), value < matched)


def bisect(holds: Callable[[float], bool], top: float) -> float:
    """Return the largest value from 0 to `top` at which `holds` is true, to BISECTIONS bits; 0 without any."""
    if holds(top):
        return top
    low, high = 0.0, top
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def energy(signals: Sequence[Tensor]) -> float:
    """Return the mean square of the high-pass part over all samples of signals (channels, *axes)."""
    total = math.fsum(float(high_pass(x[None]).double().square().sum()) for x in signals)
    return total / sum(x.numel() for x in signals)
