"""Charts of a comparison: quality over rate, perception over distortion, and targets at equal mean tokens."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from ...charts import Axis, Chart, Front, Point, Series, distance_axis, finite, styles, thin_styles
from ...drawing import draw, save
from ..records import KINDS, Record
from ..results import Results
from ..targets import LABELS
from .fronts import on_front
from .text import PLURALS

DISTORTION = {"image": "psnr", "audio": "mel"}
"""Default of the horizontal axis of perception over distortion."""
DISTANCES = ("kid", "kid_efficientnet", "rfid")
"""Metrics of a set as a whole, which tell how real it looks or sounds."""


def charts(results: Results) -> dict[str, Chart]:
    """Return name → chart: "image-curves", "image-perception", "targets-0", …"""
    found: dict[str, Chart] = {}
    for modality in ("image", "audio"):
        if results.measured(modality):
            found[f"{modality}-curves"] = curves(results, modality)
        if chart := perception(results, modality):
            found[f"{modality}-perception"] = chart
    for number, (codec, records) in enumerate(results.with_targets().items()):
        found[f"targets-{number}"] = targets(codec, records)
    return found


def write(results: Results) -> None:
    """Draw every chart to plots/ as PNG and SVG: "image-psnr", "image-psnr-modelled", "image-perception", …"""
    for name, chart in charts(results).items():
        if name.endswith("-curves"):
            for x in (axis for axis in chart.x if axis.name in ("coded", "modelled")):
                for y in chart.y:
                    stem = f"{name.removesuffix('-curves')}-{y.name}" + ("" if x.name == "coded" else f"-{x.name}")
                    save(draw(chart, x.name, y.name), results.folder / "plots" / stem)
        elif name.endswith("-perception"):
            save(draw(chart, chart.x[0].name, chart.y[0].name), results.folder / "plots" / name)
        else:
            slug = re.sub(r"[^A-Za-z0-9]+", "-", chart.title).strip("-")[-80:]
            panels = [axis.name for axis in chart.y]
            save(draw(chart, chart.x[0].name, *panels), results.folder / "plots" / f"{name}-{slug}")


def _metric_axis(results: Results, modality: str, name: str) -> Axis:
    about = results.metric(modality, name)
    if name.startswith("kid"):
        return distance_axis(name, about.label, [r.value(name) for r in results.of(modality)])
    return Axis(name, about.label, about.unit, f"{about.better} is better")


def _rate_axes(records: list[Record]) -> list[Axis]:
    """Return the axes of the measured kinds of rate, the coded one first."""
    kinds = sorted((kind for kind in KINDS if any(r.rate(kind) for r in records)), key=lambda kind: kind != "coded")
    return [Axis(kind, f"{kind} rate", records[0].rate_unit, scale="log") for kind in kinds]


def _series(results: Results, records: list[Record], rates: Sequence[Axis], metrics: list[str]) -> list[Series]:
    """Return a series per codec, with a point per setting."""
    palette = styles(r.codec for r in results.records)
    series = []
    for codec in dict.fromkeys(r.codec for r in records):
        mine = [r for r in records if r.codec == codec]
        points = []
        for r in mine:
            values = {axis.name: r.rate(axis.name) or None for axis in rates} | {m: r.value(m) for m in metrics}
            ci = finite({m: r.metrics[m].ci95 for m in metrics if m in r.metrics})
            count = f"{r.n} item{'s' * (r.n != 1)}"
            points.append(Point(", ".join(filter(None, (r.setting_text, count))), finite(values), ci))
        perfect = [m for m in metrics if any(r.value(m) == math.inf for r in mine)]
        series.append(Series(codec, points, palette[codec], perfect))
    return series


def curves(results: Results, modality: str) -> Chart:
    """Return every metric over every kind of rate, with 95 % intervals over items: one series per codec."""
    records, metrics = results.of(modality), results.measured(modality)
    rates, axes = _rate_axes(records), [_metric_axis(results, modality, name) for name in metrics]
    series = _series(results, records, rates, metrics)
    more = _references(results) if modality == "image" else []
    chart = Chart(f"rate and distortion of {PLURALS[modality]}", rates, axes, [*series, *more], "Rate", "Metric")
    chart.fronts = _fronts(results, records, rates, metrics)
    return chart


def _fronts(results: Results, records: list[Record], rates: Sequence[Axis], metrics: list[str]) -> list[Front]:
    """Return the front of each metric over each kind of rate, for two codecs or more.

    A lossless record can be on a front, but has no place in a chart.
    """
    codecs = list(dict.fromkeys(r.codec for r in records))
    mine = {codec: [i for i, r in enumerate(records) if r.codec == codec] for codec in codecs}
    places = {i: (s, p) for s, codec in enumerate(codecs) for p, i in enumerate(mine[codec])}  # as in `_series`
    fronts = []
    for kind, metric in itertools.product([axis.name for axis in rates], metrics):
        numbers = on_front(results, records, metric, kind)
        points = [places[i] for i in numbers if records[i].value(metric) != math.inf]
        fronts += [Front(kind, metric, points)] if points and len(codecs) > 1 else []
    return fronts


def _references(results: Results) -> list[Series]:
    """Return a series per published curve, over the coded rate."""
    palette = thin_styles(curve.name for curve in results.references)
    return [
        Series(
            curve.name,
            [
                Point("published", {"coded": rate} | {name: values[i] for name, values in curve.metrics.items()})
                for i, rate in enumerate(curve.rates)
            ],
            palette[curve.name],
        )
        for curve in results.references
    ]


def perception(results: Results, modality: str) -> Chart | None:
    """Return the distance to real data over each metric of distortion, with the coded rate at each point.

    A link leads from each point of a codec to that of a diffusion decoder of the same codes.

    Returns:
        None if no codec has a value of both.
    """
    records, measured = results.of(modality), results.measured(modality)
    distances = [name for name in DISTANCES if name in measured]
    metrics = sorted((m for m in measured if m not in DISTANCES), key=lambda m: m != DISTORTION[modality])
    if not distances or not metrics:
        return None
    axes = {name: _metric_axis(results, modality, name) for name in measured}
    across = [_reversed(axes[m]) if results.metric(modality, m).better == "lower" else axes[m] for m in metrics]
    rates = _rate_axes(records)
    chart = Chart(
        f"distortion and perception of {PLURALS[modality]}", across, [axes[d] for d in distances],
        _series(results, records, rates, measured), "Distortion", "Perception", label=rates[0],
    )  # fmt: skip
    chart.links = _links(chart.series, [r for r in records])
    x, y = metrics[0], distances[0]
    return chart if any(x in p.values and y in p.values for s in chart.series for p in s.points) else None


def _reversed(axis: Axis) -> Axis:
    return Axis(axis.name, axis.label, axis.unit, "axis reversed: lower is better", axis.scale, axis.linear, True)


def _links(series: list[Series], records: list[Record]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the pairs of points of a codec and of its diffusion decoders at equal settings."""
    places: dict[tuple[str, str], tuple[int, int]] = {}
    for number, one in enumerate(series):
        settings = [r.setting_text for r in records if r.codec == one.name]
        places |= {(one.name, setting): (number, i) for i, setting in enumerate(settings)}
    pairs = ((places.get((codec.rpartition("+")[0], setting)), at) for (codec, setting), at in places.items())
    return [(plain, diffusion) for plain, diffusion in pairs if plain]


def targets(codec: str, records: list[Record]) -> Chart:
    """Return mean PSNR and its 10th percentile over mean tokens: a series for fixed settings and for each target."""
    names = [name for name in LABELS if name in records[0].targets]
    palette = styles(names)
    series = [
        Series(
            LABELS[name],
            [
                Point(r.setting_text, finite({"tokens": t.tokens, "mean": t.psnr.mean, "p10": t.psnr.p10}))
                for r in records
                if (t := r.targets[name])
            ],
            palette[name],
        )
        for name in names
    ]
    mean = Axis("mean", "PSNR, mean", "dB", "higher is better")
    tenth = Axis("p10", "PSNR, 10th percentile", "dB", "higher is better")
    return Chart(codec, [Axis("tokens", "mean tokens per image", scale="log2")], [mean, tenth], series, "", "Metric")
