"""Exhibits: reconstructions of a few items by all codecs at an equal rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Modality, Target, TargetError
from tokenloom.data import Item

from .. import trial
from ..gallery.files import save, save_for_display, slug
from ..gallery.records import Exhibit, ExhibitTile
from ..metric import Protocol
from .entries import CodecEntry
from .measurement import CodecMeasurement, ItemResult, measure

MOST = {Modality.IMAGE: 4, Modality.AUDIO: 4, Modality.TEXT: 0}
"""Largest number of exhibits of each modality."""
UNITS = {Modality.IMAGE: "bits_per_pixel", Modality.AUDIO: "kbps"}
SHOWN = {Modality.IMAGE: ("psnr", "ms_ssim"), Modality.AUDIO: ("mel", "si_sdr")}
"""Metrics of a tile."""
SLACK = 1 + 1e-9  # for rounding errors of a codec's own rate


def parse_rates(rate: float | Mapping[str, float] | None, modalities: set[Modality]) -> dict[Modality, float]:
    """Return modality → rate from the argument `rate` of `compare`."""
    units = {m: unit for m, unit in UNITS.items() if m in modalities}
    if rate is None:
        return {}
    if not isinstance(rate, Mapping):
        if len(units) != 1:
            raise ValueError(f"rate must name its unit, such as {{bits_per_pixel: 0.2, kbps: 6}}, got {rate!r}")
        rate = {unit: rate for unit in units.values()}
    known = {unit: m for m, unit in UNITS.items()}
    for unit, value in rate.items():
        if unit not in known:
            raise ValueError(f"the unit of rate must be one of {', '.join(known)}, got {unit!r}")
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(f"rate {unit} must be a positive number, got {value!r}")
    return {known[unit]: float(value) for unit, value in rate.items() if value is not None}


class Example(NamedTuple):
    """An item of the exhibits, with its reconstructions at every setting."""

    item: Item
    settings: list[ExhibitTile]


def make_tile(
    number: int, item: Item, place: str, m: CodecMeasurement, result: ItemResult, folder: Path
) -> ExhibitTile | None:
    """Write the reconstruction of a measured item at one setting to folder/exhibits, as a report shows it.

    Args:
        number: Number of the item, for the name of the file.
        item: The item.
        place: Text in the name of the file that no other codec and setting has.
        m: The measurement at one setting of a codec.
        result: Its result for the item.
        folder: The folder of the comparison.

    Returns:
        None if the codec failed or has no settings.
    """
    if result.trial is None or m.setting is None:
        return None
    (folder / "exhibits").mkdir(parents=True, exist_ok=True)
    name = f"{_name(number, item)}-setting-{place}-{slug(m.name)}"
    file, psnr = save_for_display(result.trial.output, item, folder, name)
    return ExhibitTile(
        codec=m.entry.label, learned=m.entry.learned, rate=result.rates["coded"], bytes=result.bytes,
        figures=_figures(result.values, item), file=file, setting=f"{m.entry.codec.settings.name} {m.setting}",
        display_psnr=psnr,
    )  # fmt: skip


def _name(number: int, item: Item) -> str:
    return f"{number:02d}-{slug(item.key)}"


def _figures(values: Mapping[str, float | str], item: Item) -> dict[str, float | str]:
    """Return the values that a tile shows, in the form of results files."""
    shown = {name: values[name] for name in SHOWN[item.modality] if isinstance(values.get(name), float)}
    return {name: "inf" if value == math.inf else value for name, value in shown.items()}


def make_exhibits(
    entries: list[CodecEntry],
    examples: list[Example],
    folder: Path,
    *,
    rates: dict[Modality, float],
    anchors: dict[Modality, str],
    protocols: dict[Modality, Protocol],
) -> list[Exhibit]:
    """Reconstruct the examples by every codec at one rate, and write them to folder/exhibits.

    The rate comes from `rates`, else from the first learned codec at its default setting, else from the anchor at a
    quarter of its sweep. A codec that cannot reach the rate comes as near as possible, with a note.
    """
    (folder / "exhibits").mkdir(parents=True, exist_ok=True)
    exhibits = []
    for number, (item, settings) in enumerate(examples):
        suitable = [entry for entry in entries if entry.modality is item.modality]
        name = _name(number, item)
        exhibit = Exhibit(
            modality=str(item.modality),
            key=item.key,
            caption=item.caption,
            sample_rate=item.sample_rate,
            unit=trial.RATE_UNITS[item.modality],
            rate=rates.get(item.modality),
            rate_of=None,
            original=save(item.signal, item, folder, f"{name}-original"),
            settings=settings,
        )
        exhibits.append(exhibit)
        if exhibit.rate is None:
            usual = trial.attempt(lambda i=item, s=suitable: _usual_rate(s, i, anchors[i.modality]))
            if isinstance(usual, trial.Failure):  # other codecs cannot be compared without a rate
                exhibit.problem = f"the codec that sets the rate failed: {usual}"
                continue
            exhibit.rate, exhibit.rate_of = usual
        for place, entry in enumerate(suitable):
            tile, output = _tile(entry, item, exhibit.rate, protocols[item.modality])
            if output is not None:
                tile.file = save(output, item, folder, f"{name}-{place:02d}-{slug(entry.label)}")
            exhibit.tiles.append(tile)
    return exhibits


def _usual_rate(entries: list[CodecEntry], item: Item, anchor: str) -> tuple[float, str]:
    """Return the default rate for an item, and the codec that it comes from."""
    learned = next((entry for entry in entries if entry.learned), None)
    if learned is not None:
        return trial.run(learned.codec_for(item), item).rates["coded"], learned.label
    entry = next(entry for entry in entries if entry.label == anchor)
    settings = entry.codec.settings
    value = settings.sweep[len(settings.sweep) // 4]
    label = entry.label if value is None else f"{entry.label} at {settings.name} {value}"
    return trial.run(entry.codec_for(item), item, value).rates["coded"], label


def _tile(entry: CodecEntry, item: Item, rate: float, protocol: Protocol) -> tuple[ExhibitTile, Any]:
    """Return a codec's tile and its reconstruction; None if the codec failed."""
    tile = ExhibitTile(codec=entry.label, learned=entry.learned)
    done = trial.attempt(lambda: _nearest(entry.codec_for(item), item, rate))
    if isinstance(done, trial.Failure):
        tile.note = f"failed: {done}"
        return tile, None
    done, tile.note = done
    reached = done.rates["coded"]
    if not tile.note and reached < 0.9 * rate:
        tile.note = "its nearest setting below"
    if tile.note == "has one rate only" and abs(reached - rate) <= 0.02 * rate:
        tile.note = ""
    values = {m.name: measure(m, item, done.output) for m in protocol.metrics if m.name in SHOWN[item.modality]}
    tile.figures = _figures(values, item)
    tile.rate, tile.bytes = reached, len(done.data)
    return tile, done.output


def _nearest(codec: Codec, item: Item, rate: float) -> tuple[trial.Trial, str]:
    """Code an item at the largest rate up to `rate` that the codec has, and return a note if that is not near."""
    if len(codec.settings) < 2:
        return trial.run(codec, item), "has one rate only"
    try:
        return trial.run(codec, item, Target(**{UNITS[item.modality]: rate * SLACK})), ""
    except TargetError:
        return trial.run(codec, item, codec.settings.values[0]), "cannot go lower"
