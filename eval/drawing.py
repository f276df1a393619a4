"""Colors and style of every plot, spectrograms, and enlarged images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from tokenloom.metrics.audio import log_mel

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


def spectrograms(waveforms: Sequence[Tensor], sample_rate: int, size: tuple[int, int]) -> list[Image.Image]:
    """Draw log-mel spectrograms of waveforms (channels, samples), low frequencies at the bottom.

    All share one color scale: DYNAMICS down from the loudest value of the first.
    """
    images, loudest = [], None
    for waveform in waveforms:
        mel = log_mel(waveform, sample_rate, 0.032, 64, 1e-6).mean(0)
        loudest = mel.max().item() if loudest is None else loudest
        level = ((mel - loudest + DYNAMICS) / DYNAMICS).clamp(0, 1).flip(0)
        pixels = (colormaps["magma"](level.numpy())[..., :3] * 255).astype("uint8")
        images.append(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    return images


def enlarge(image: Image.Image, side: int) -> Image.Image:
    """Enlarge an image by the largest whole factor that keeps its sides at most `side` pixels."""
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
