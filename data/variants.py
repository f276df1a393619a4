"""Other copies of a signal: moved, scaled or mirrored pictures, faster or slower sounds; the same for all signals.

What copy k does depends on k alone. So copy k of one picture goes with copy k of another, which is
what pairs of pictures need, and tokens of all copies can be computed once.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom.codecs import media

SHIFT, SCALE = 0.07, (0.86, 1.04)
"""Of pictures: the largest shift against the side, the factors of size."""
SPEED, GAIN_DB = (0.88, 1.12), (-9.0, 3.0)
"""Of sounds: the factors of speed, and with it of pitch; the gains."""


def image(x: Tensor, copy: int) -> Tensor:
    """Float32 (3, height, width) in [0, 1] → the same size. 0: itself; odd copies mirror the one before."""
    if mirrored := copy % 2:
        copy -= 1
    if copy:
        across, down, scale = _draws(copy, 3)
        scale = SCALE[0] + scale * (SCALE[1] - SCALE[0])
        across, down = ((2 * n - 1) * SHIFT * 2 for n in (across, down))  # of a grid from −1 to 1
        affine = torch.tensor([[1 / scale, 0.0, across], [0.0, 1 / scale, down]])
        grid = F.affine_grid(affine[None], [1, *x.shape], align_corners=False)
        # bicubic, and the border's pixels beyond it
        x = F.grid_sample(x[None], grid, "bicubic", "border", align_corners=False)[0]
        x = (x.clamp(0, 1) * 255).round() / 255
    return x.flip(2).contiguous() if mirrored else x


def audio(x: Tensor, sample_rate: int, copy: int) -> Tensor:
    """Float32 (channels, samples) in [-1, 1] → at another speed and gain; 0: itself. The gain never clips."""
    if not copy:
        return x
    speed, gain = _draws(copy, 2)
    speed, gain = (low + n * (high - low) for n, (low, high) in ((speed, SPEED), (gain, GAIN_DB)))
    x = media.convert(x, round(sample_rate * speed), sample_rate, x.shape[0])
    return (x * min(10 ** (gain / 20), 1 / max(float(x.abs().max()), 1e-9))).clamp(-1, 1)  # of what rounding adds


def _draws(copy: int, count: int) -> list[float]:
    return np.random.default_rng([29, copy]).random(count).tolist()
