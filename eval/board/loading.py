"""Results files for a board. They can be a stranger's: every field that the board uses is checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenloom.codecs.types import Modality

from ..compare.records import KINDS, Record
from ..compare.results import JSON, Results
from ..metric import Summary
from ..trial import AMOUNTS, RATE_UNITS

LONGEST = 200
"""Largest number of characters of a name or a unit."""
MOST = 1e9
"""Largest figure, and reciprocal of the smallest rate."""


@dataclass(frozen=True)
class Loaded:
    """Results of one file, whose name stands in the messages of errors."""

    name: str
    results: Results

    def records(self) -> list[Record]:
        """Return the records with items."""
        return [record for record in self.results.records if record.n]


def load(sources: Sequence[str | os.PathLike[str]]) -> list[Loaded]:
    """Read results files, or those in folders. A file that is named twice is read once.

    Raises:
        FileNotFoundError: If a folder has no results.json, or there is no such file.
        ValueError: If no file is named, or a file is damaged or contradicts itself. The message names it.
    """
    if not sources:
        raise ValueError("a board needs results: name folders of tokenloom compare, or their results.json")
    found: dict[Path, Loaded] = {}
    for source in sources:
        given = Path(source).expanduser()
        path = given / JSON if given.is_dir() else given
        if path.resolve() not in found:
            found[path.resolve()] = _load(str(path), given)
    return list(found.values())


def _load(name: str, source: Path) -> Loaded:
    loaded = Loaded(name, Results.read(source))
    try:
        _check(loaded)
    except ValueError as error:
        raise ValueError(f"{name} cannot be merged: {error}") from error
    return loaded


def _check(loaded: Loaded) -> None:
    """Raise ValueError if the file lacks something, or contradicts itself. Kinds of rate that it lacks become empty."""
    results, about = loaded.results, loaded.results.environment
    _short(results.title, about.date, about.machine, about.device, *about.versions.values(), *results.protocols)
    for protocol in results.protocols.values():
        for name, metric in protocol.metrics.items():
            _short(name, metric.label, metric.unit)
            _require(metric.better in ("higher", "lower"), f"the better side of {name}", metric.better)
    _require(bool(loaded.records()), "the records with an item", 0)
    seen: set[tuple[str, str, str, str]] = set()
    for record in results.records:
        _short(record.codec, record.set, record.setting_text, record.license or "")
        if not record.n:
            continue
        _check_record(results, record)
        key = (record.modality, record.set, record.codec, record.setting_text)
        if key in seen:
            raise ValueError(f"{record.name} is recorded twice on {record.set}")
        seen.add(key)
        for kind in KINDS:
            record.rates.setdefault(kind, Summary())
            record.bits_per_token.setdefault(kind, Summary())
    known = {name for protocol in results.protocols.values() for name in protocol.metrics}
    results.absent = {name: reason for name, reason in results.absent.items() if name in known}


def _check_record(results: Results, record: Record) -> None:
    modality, where, time = record.modality, f"of {record.name}", record.time
    protocol = results.protocols.get(record.protocol)
    _require(modality in tuple(Modality), f"the modality {where}", modality)
    if protocol is None or protocol.modality != modality:
        raise ValueError(f"the protocol {where} must be one of the file for {modality}, got {record.protocol!r:.60}")
    stray = [name for name in record.metrics if name not in protocol.metrics]
    _require(not stray, f"the metrics {where}", stray)
    _require(record.rate_unit == RATE_UNITS[Modality(modality)], f"the unit of the rate {where}", record.rate_unit)
    unit = f"{AMOUNTS[Modality(modality)]} per second"
    _require(time.speed_unit in ("", unit), f"the unit of the speed {where}", time.speed_unit)
    _require(isinstance(record.setting, str | int | float | None), f"the setting {where}", record.setting)
    keys = [row.get("key") for row in record.items]
    named = all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys)
    _require(named and len(keys) == record.n + record.failed, f"the keys of the items {where}", f"{len(keys)} keys")
    _require((record.rate() or 0) > 1 / MOST, f"the coded rate {where}", record.rate())
    for least, summaries in ((0.0, (record.rates, record.bits_per_token)), (-MOST, (record.metrics,))):
        for summary in (summary for group in summaries for summary in group.values()):
            _require(least <= (summary.mean or 0.0) <= MOST, f"a figure {where}", summary.mean)
            positive = (summary.std or 0.0, summary.ci95 or 0.0)
            _require(all(0 <= value <= MOST for value in positive), f"the spread of a figure {where}", positive)
            counts = (summary.n, summary.perfect, summary.failed, *summary.reasons.values())
            _require(all(0 <= count <= len(keys) for count in counts), f"the counts of a figure {where}", counts)
    speeds = (time.encode_speed or 0.0, time.decode_speed or 0.0)
    _require(all(0 <= speed <= MOST for speed in speeds), f"the speed {where}", speeds)


def _require(right: bool, what: str, value: object) -> None:
    if not right:
        raise ValueError(f"{what} must be as a comparison writes it, got {value!r:.60}")


def _short(*texts: str) -> None:
    if long := next((text for text in texts if len(text) > LONGEST), None):
        raise ValueError(f"a name must have at most {LONGEST} characters, {long[:20]!r}… has {len(long)}")
