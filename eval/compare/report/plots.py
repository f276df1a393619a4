"""Plots of a comparison as PNG and SVG files."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.figure import Figure

from ..results import Results
from .curves import draw, draw_targets
from .perception import draw_perception


def perception_plot(modality: str) -> str:
    """Return the name of the plot of perception over distortion."""
    return f"{modality}-perception"


def plot_path(results: Results, name: str) -> Path:
    """Return the path of a plot's SVG file."""
    return results.folder / "plots" / f"{name}.svg"


def targets_plot(codec: str) -> str:
    """Return the name of a codec's plot of targets."""
    return "targets-" + re.sub(r"[^A-Za-z0-9]+", "-", codec).strip("-")


def save(figure: Figure, results: Results, name: str) -> None:
    """Write a figure to the folder of plots, as PNG and SVG."""
    path = plot_path(results, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=160)


def write(results: Results) -> None:
    """Draw every plot of a comparison, such as "image-psnr", "image-psnr-modelled", "image-perception"."""
    for modality in ("image", "audio"):
        kinds = ["coded", *(["modelled"] if any(r.rate("modelled") for r in results.of(modality)) else [])]
        for metric in results.measured(modality):
            for kind in kinds:
                name = f"{modality}-{metric}" if kind == "coded" else f"{modality}-{metric}-{kind}"
                save(draw(results, modality, metric, kind), results, name)
        if figure := draw_perception(results, modality):
            save(figure, results, perception_plot(modality))
    for codec, records in results.with_targets().items():
        save(draw_targets([r.targets for r in records]), results, targets_plot(codec))
