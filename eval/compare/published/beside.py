"""A comparison beside published curves: BD-rates against them, and the differences of protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenloom.codecs.types import Modality
from tokenloom.metrics.bd_rate import bd_rate

from ..plan import Plan
from ..records import BDRow, ReferenceCurve
from ..results import Results
from . import layout

IMAGE = str(Modality.IMAGE)


def read(sources: Sequence[str | Path], export: str | None, plan: Plan) -> list[ReferenceCurve]:
    """Return the published curves beside a comparison. None has the name of a codec.

    Args:
        sources: As for `layout.read`.
        export: Layout in which the curves of the comparison are to be written; None: they are not.
        plan: Codecs and protocols of the comparison.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file or the layout is wrong, or the comparison has no image codec or does not measure RGB.
    """
    if export not in (None, layout.FOLDER):
        raise ValueError(f"export must be {layout.FOLDER} or null, got {export!r:.80}")
    curves = layout.read(sources)
    if curves or export is not None:
        if (protocol := plan.protocols.get(Modality.IMAGE)) is None:
            raise ValueError("published curves are of images, and no codec of the comparison is for images")
        layout.require_rgb(protocol.common, protocol.name)
    labels = {entry.label for entry in plan.entries}
    for curve in curves:
        curve.name += " (published)" if curve.name in labels else ""
    return curves


def rates(results: Results) -> list[BDRow]:
    """Return the BD-rate of each image codec against each published curve, in PSNR and MS-SSIM."""
    rows = []
    for curve in results.references:
        for metric, values in curve.metrics.items():
            if metric not in results.measured(IMAGE):
                continue
            base = list(zip(curve.rates, values, strict=True))
            for codec in results.codecs(IMAGE):
                percent = overlap = reason = None
                try:
                    percent, overlap = bd_rate(base, results.curve(IMAGE, codec, metric))
                except ValueError as error:
                    reason = str(error)
                label = results.metric(IMAGE, metric).label
                rows.append(BDRow(modality=IMAGE, anchor=curve.name, codec=codec, metric=metric, label=label,
                                  percent=percent, overlap=overlap, reason=reason))  # fmt: skip
    return rows


def differences(results: Results) -> list[str]:
    """Return what to know before one reads a curve of the comparison beside a published one."""
    records = results.of(IMAGE)
    if not results.references or not records:
        return []
    protocol, count = results.protocols[records[0].protocol], max(r.n for r in records)
    lines = [
        f"Pictures: a published curve holds for the pictures of its publication, for CompressAI the 24 of the Kodak "
        f"set. This comparison has {count} from {results.title}. Curves of other pictures cannot be compared.",
        "Bits: published ones are those of the codec's file or bitstream. Coded rates here include the container, at "
        "most 32 bytes for an image.",
        "PSNR: CompressAI writes the mean over the pictures of the PSNR of each, not that of the mean error, in RGB; "
        "its bench of image codecs rounds to 8 bits, its networks were partly measured without rounding. Papers state "
        f"their own. Protocol {protocol.name} takes the same mean; rounding: {protocol.common.get('rounding')}.",
        "MS-SSIM: the mean over the pictures of linear values (pytorch-msssim), there and here.",
    ]
    if converted := [curve.name for curve in results.references if layout.DECIBEL in curve.notes]:
        lines.append(
            f"MS-SSIM in dB was converted to linear values for {', '.join(converted)}. The publication may have taken "
            "the mean in dB, which is not the dB of the mean."
        )
    return lines
