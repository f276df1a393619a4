"""Reconstructions to look at and listen to, all codecs at an equal rate."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality, Target, TargetError
from tokenloom.data import Item

from .. import trial
from ..metric import Protocol
from .entries import Contestant
from .figures import measure, one_line

MOST = {Modality.IMAGE: 4, Modality.AUDIO: 4, Modality.TEXT: 0}
"""Exhibits of each modality."""
UNITS = {Modality.IMAGE: "bits_per_pixel", Modality.AUDIO: "kbps"}
SHOWN = {Modality.IMAGE: ("psnr", "ms_ssim"), Modality.AUDIO: ("mel", "si_sdr")}
SLACK = 1 + 1e-9  # a codec's own rate must not miss its target by a rounding error


def rates(rate: float | Mapping[str, float] | None, modalities: set[Modality]) -> dict[Modality, float]:
    """The `rate` argument of `compare` → the rate of each modality that has one."""
    wanted = {m: unit for m, unit in UNITS.items() if m in modalities}
    if rate is None:
        return {}
    if not isinstance(rate, Mapping):
        if len(wanted) != 1:
            raise ValueError(f"rate {rate!r} names no unit; write rate={{bits_per_pixel: 0.2, kbps: 6}}")
        rate = {unit: rate for unit in wanted.values()}
    known = {unit: m for m, unit in UNITS.items()}
    for unit, value in rate.items():
        if unit not in known:
            raise ValueError(f"rate {unit!r} is none of {', '.join(known)}")
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(f"rate {unit}={value!r} is not a positive number")
    return {known[unit]: float(value) for unit, value in rate.items() if value is not None}


def make(
    contestants: list[Contestant],
    items: list[Item],
    folder: Path,
    *,
    rates: dict[Modality, float],
    anchors: dict[Modality, str],
    protocols: dict[Modality, Protocol],
) -> list[dict[str, Any]]:
    """One exhibit an item: the original and every codec at one rate, written to folder/exhibits.

    The rate is the one given, else what the first learned codec needs for this item at its default
    setting, else the anchor at a quarter of its sweep. A codec that cannot come within it is shown as near as it gets,
    with the reason in `note`.
    """
    (folder / "exhibits").mkdir(parents=True, exist_ok=True)
    exhibits = []
    for number, item in enumerate(items):
        mine = [c for c in contestants if c.modality is item.modality]
        stem = f"{number:02d}-{_slug(item.key)}"
        exhibit = {
            "modality": str(item.modality),
            "key": item.key,
            "caption": item.caption,
            "sample_rate": item.sample_rate,
            "unit": trial.RATE_UNITS[item.modality],
            "rate": rates.get(item.modality),
            "rate_of": None,
            "original": _save(item.signal, item, folder, f"{stem}-original"),
            "tiles": [],
        }
        try:
            if exhibit["rate"] is None:
                exhibit["rate"], exhibit["rate_of"] = _usual_rate(mine, item, anchors[item.modality])
        except Exception as error:  # no rate, no comparison: the reason stands in its place
            exhibits.append({**exhibit, "problem": f"the codec that sets the rate failed: {one_line(error)}"})
            continue
        for contestant in mine:
            tile = _tile(contestant, item, exhibit["rate"], protocols[item.modality])
            output = tile.pop("output")
            if output is not None:
                tile["file"] = _save(output, item, folder, f"{stem}-{_slug(contestant.label)}")
            exhibit["tiles"].append(tile)
        exhibits.append(exhibit)
    return exhibits


def _usual_rate(contestants: list[Contestant], item: Item, anchor: str) -> tuple[float, str]:
    """A rate worth looking at, and whose it is."""
    leader = next((c for c in contestants if c.learned), None)
    if leader is not None:
        return trial.run(leader.fitted(item), item).rates["coded"], leader.label
    leader = next(c for c in contestants if c.label == anchor)
    settings = leader.codec.settings
    value = settings.sweep[len(settings.sweep) // 4]
    label = leader.label if value is None else f"{leader.label} at {settings.name} {value}"
    return trial.run(leader.fitted(item), item, value).rates["coded"], label


def _tile(contestant: Contestant, item: Item, rate: float, protocol: Protocol) -> dict[str, Any]:
    tile = {"codec": contestant.label, "learned": contestant.learned, "output": None, "note": ""}
    try:
        codec = contestant.fitted(item)
        if len(codec.settings) < 2:
            done, note = trial.run(codec, item), "has one rate only"
        else:
            try:
                done, note = trial.run(codec, item, Target(**{UNITS[item.modality]: rate * SLACK})), ""
            except TargetError:
                done, note = trial.run(codec, item, codec.settings.values[0]), "cannot go lower"
    except Exception as error:  # a codec that fails on this item leaves its tile empty, and says why
        return {**tile, "note": f"failed: {one_line(error)}"}
    reached = done.rates["coded"]
    if not note and reached < 0.9 * rate:
        note = "its nearest setting below"
    if note == "has one rate only" and abs(reached - rate) <= 0.02 * rate:
        note = ""
    values = {m.name: measure(m, item, done) for m in protocol.metrics if m.name in SHOWN[item.modality]}
    figures = {k: "inf" if v == math.inf else v for k, v in values.items() if isinstance(v, float)}
    return {**tile, "output": done.output, "note": note, "rate": reached, "bytes": len(done.data), "figures": figures}


def _save(signal: Any, item: Item, folder: Path, stem: str) -> str:
    """Lossless PNG, or FLAC of 16 bits; returns the path relative to `folder`."""
    suffix = "png" if item.modality is Modality.IMAGE else "flac"
    path = Path("exhibits") / f"{stem}.{suffix}"
    media.write(signal, folder / path, sample_rate=item.sample_rate)
    return path.as_posix()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-48:] or "item"
