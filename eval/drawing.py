"""Colors and style of every plot, and spectrograms."""

from __future__ import annotations

import math

from matplotlib import colormaps
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

COLORS = ("#2f6fde", "#d9622b", "#2a9d6f", "#9b59c6", "#c23b60", "#8a7a2e", "#3aa3b8", "#7b7f87", "#b0743a", "#5a5fc9")
"""Colors that can be told apart on white and on black."""
GRAY = COLORS[7]
MARKERS = "osD^vPX*<>"
DYNAMICS = 80 / 20 * math.log(10)
"""Range of a spectrogram, 80 dB, in natural logarithms."""


def style(axes: Axes) -> None:
    """Draw a faint grid and no frame at the top and the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def spectrogram(mel: Tensor, loudest: float, size: tuple[int, int]) -> Image.Image:
    """Draw a spectrogram (bands, frames) of natural logarithms, from DYNAMICS below `loudest`, low frequencies last."""
    level = ((mel - loudest + DYNAMICS) / DYNAMICS).clamp(0, 1).flip(0)
    pixels = (colormaps["magma"](level.numpy())[..., :3] * 255).astype("uint8")
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
