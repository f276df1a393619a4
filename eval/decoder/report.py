"""Report of the evaluation of a diffusion decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..charts import Axis, Chart, Point, Series, distance_axis, finite, styles
from ..drawing import draw, save
from ..gallery.views import views
from ..metric import MetricDescription
from ..render import write_page
from . import tables
from .records import DecoderResults, VariantRecord
from .variants import heading


def write(results: DecoderResults, folder: Path) -> Path:
    """Write report.html and its plot to the folder of the results, and return the path of the report."""
    draw_chart(results, folder)
    metrics = {"psnr": MetricDescription("mel PSNR" if results.modality == "audio" else "PSNR", "dB", "higher")}
    pictures, sounds = views(folder, results.exhibits.items if results.exhibits else [], metrics)
    return write_page(
        folder / "report.html",
        "decoder.html",
        results=results,
        tables=tables,
        pictures=pictures,
        sounds=sounds,
        styles=styles(heading(record.variant) for record in results.records),
        controls=[tables.control_cells(results, control) for control in results.controls],
        chart=chart(results),
    )


def chart(results: DecoderResults) -> Chart | None:
    """Return the chart of PSNR, KID and accuracy over tokens, with a series per variant; None for a single setting."""
    records = results.records
    kids = {f"kid {space}": partial(VariantRecord.kid_value, space=space) for space in results.spaces}
    values: dict[str, Callable[[VariantRecord], float | None]] = {
        "tokens": lambda record: record.tokens,
        "psnr": lambda record: record.distortion["psnr"].mean,
        **kids,
        "accuracy": lambda record: record.accuracy and 100 * record.accuracy.accuracy,
    }
    axes = [
        Axis("psnr", "mel PSNR" if results.modality == "audio" else "PSNR", "dB", "higher is better"),
        *(distance_axis(name, f"KID, {space}", map(kids[name], records))
          for name, space in zip(kids, results.spaces, strict=True)),
        Axis("accuracy", tables.ACCURACY, "%", "closer to 50 is better"),
    ]  # fmt: skip
    axes = [axis for axis in axes if finite({str(i): values[axis.name](r) for i, r in enumerate(records)})]
    if len(results.measured_settings) < 2 or not axes:
        return None
    palette = styles(record.variant for record in records)
    series = [
        Series(
            heading(name),
            [Point("", finite({key: value(r) for key, value in values.items()})) for r in records if r.variant == name],
            style,
        )
        for name, style in palette.items()
    ]
    return Chart("distortion and realism over tokens", [Axis("tokens", "tokens", scale="log2")], axes, series,
                 y_title="Measure")  # fmt: skip


def draw_chart(results: DecoderResults, folder: Path) -> None:
    """Draw the chart to plots/tokens as PNG and SVG, with a panel per measure."""
    if found := chart(results):
        save(draw(found, "tokens", *(axis.name for axis in found.y)), folder / "plots" / "tokens")
