"""Report of the evaluation of a diffusion decoder."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ..drawing import COLORS, MARKERS, style
from ..render import audio_file_uri, data_uri, image_uri, write_page
from . import tables
from .records import DecoderResults, VariantRecord
from .variants import heading


def write(results: DecoderResults, folder: Path) -> Path:
    """Write report.html to the folder of the results, and return its path."""
    return write_page(
        folder / "report.html",
        "decoder.html",
        results=results,
        tables=tables,
        figure=results.exhibits and _image(folder / results.exhibits.figure),
        audio=lambda name: audio_file_uri(folder / name),
        controls=[tables.control_cells(results, control) for control in results.controls],
        chart=chart(results),
    )


def _image(path: Path) -> str:
    with Image.open(path) as image:
        return image_uri(image)


def chart(results: DecoderResults) -> str | None:
    """Plot PSNR, KID and accuracy over tokens, with a curve per variant; None for a single setting.

    Returns:
        Data URI of an SVG file.
    """
    panels: dict[str, Callable[[VariantRecord], float | None]] = {
        "PSNR / dB": lambda record: record.distortion["psnr"].mean,
        **{f"KID, {space}": partial(VariantRecord.kid_value, space=space) for space in results.spaces},
        f"{tables.ACCURACY} / %": lambda record: record.accuracy and 100 * record.accuracy.accuracy,
    }
    panels = {label: value for label, value in panels.items() if any(value(r) is not None for r in results.records)}
    if len(results.measured_settings) < 2 or not panels:
        return None
    figure = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    for axes, (label, value) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for i, name in enumerate(dict.fromkeys(r.variant for r in results.records)):
            records = [r for r in results.records if r.variant == name and value(r) is not None]
            if records:
                axes.plot([r.tokens for r in records], [value(r) for r in records], color=COLORS[i % len(COLORS)],
                          marker=MARKERS[i % len(MARKERS)], ms=4, lw=1.4, label=heading(name))  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        if label.startswith("KID"):
            axes.set_yscale("symlog", linthresh=1e-2)
        axes.set_xlabel("tokens")
        axes.set_ylabel(label)
        style(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor="white")
    return data_uri(buffer.getvalue(), "image/svg+xml")
