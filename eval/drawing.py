"""Colors and style of every plot."""

from __future__ import annotations

from matplotlib.axes import Axes

COLORS = ("#2f6fde", "#d9622b", "#2a9d6f", "#9b59c6", "#c23b60", "#8a7a2e", "#3aa3b8", "#7b7f87", "#b0743a", "#5a5fc9")
"""Colors that can be told apart on white and on black."""
GRAY = COLORS[7]
MARKERS = "osD^vPX*<>"


def style(axes: Axes) -> None:
    """Draw a faint grid and no frame at the top and the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
