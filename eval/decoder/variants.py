"""Variants: signals decoded in different ways from the same codes.

They are "plain" (the codec's own decoder), the controls of controls.py, and "diffusion N" (the decoder in N steps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes
from tokenloom.models import DiffusionDecoder

from . import controls
from .controls import CONTROLS, ControlStrength
from .measures import measures_of

PLAIN = "plain"
BASELINES = (PLAIN, *CONTROLS)
FLOW_STEPS = 16
"""From this number of steps on, the decoder uses Euler's method along its flow, else its shortcut sampler."""
SEED_STRIDE = 1_000_003
"""The seed of a batch is seed · SEED_STRIDE + the number of its first item."""


def diffusion(steps: int) -> str:
    """Return the name of the diffusion variant with this number of steps."""
    return f"diffusion {steps}"


def sampler(steps: int) -> str:
    """Return the sampler for this number of steps."""
    return "euler" if steps >= FLOW_STEPS else "shortcut"


def heading(variant: str) -> str:
    """Return the name of a variant in tables and figures."""
    if variant.startswith("diffusion "):
        n = int(variant.split()[1])
        return f"diffusion, {n} step{'s' if n > 1 else ''}"
    return "plain decoder" if variant == PLAIN else variant


def decode(
    decoder: DiffusionDecoder,
    codes: Codes,
    *,
    steps: Sequence[int] = (1, 2, 4, 50),
    strengths: Mapping[str, ControlStrength] | None = None,
    seed: int = 0,
    first: int = 0,
) -> dict[str, Tensor]:
    """Decode a batch of codes of equal size with every variant.

    Args:
        decoder: Diffusion decoder of the codes.
        codes: Codes of the decoder's codec.
        steps: Numbers of steps, one per variant.
        strengths: Control → strength, one per variant.
        seed: Seed of the noise. The noise of an item depends on the seed and the item's number.
        first: Number of the first item of the batch.

    Returns:
        Variant → signals (batch, channels, *axes), float32 on the CPU, clamped and rounded to 8 bits (images) or
        16 bits (audio), as in a file.
    """
    quantize = measures_of(decoder.codec).quantize
    low = seed * SEED_STRIDE + first
    plain = quantize(decoder.codec.decode(codes).cpu())
    signals = {PLAIN: plain}
    for name, strength in (strengths or {}).items():
        signals[name] = quantize(CONTROLS[name](plain, strength.value, range(low, low + len(plain))))
    for n in steps:
        signals[diffusion(n)] = quantize(decoder.decode(codes, steps=n, seed=low, sampler=sampler(n)).cpu())
    return signals


def fit_controls(
    codec: Codec, real: Sequence[Tensor], setting: Any = None, seed: int = 0
) -> dict[str, ControlStrength]:
    """Fit the strength of every control for one setting of a codec, on training signals (channels, *axes)."""
    measures = measures_of(codec)
    real = [measures.quantize(x) for x in real]
    plain = [measures.quantize(codec.decode(codec.encode(x[None], setting)).cpu())[0] for x in real]
    return {name: controls.fit(name, real, plain, measures.psnr, measures.quantize, seed) for name in CONTROLS}
