"""Tasks of a comparison: a trial of one item at one setting, or the curve of one item. Any process can perform them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenloom.data import Item

from ...selection import digest
from ...serialize import to_plain
from ..exhibits import MOST, make_tile
from ..journal import CRASHED, Key, pack
from ..measurement import CodecMeasurement, ItemResult
from ..targets import TargetSearch


@dataclass(frozen=True)
class Task:
    """One item, and what to measure of it."""

    label: str
    """Label of the codec."""
    place: int
    """Place of the codec in the plan."""
    number: int | None
    """Number of the setting in the sweep; None: the curve of the item, for the targets."""
    setting: Any
    index: int
    """Index of the item in the source."""
    position: int
    """Position of the item among those that are compared. The first ones get tiles for the exhibits."""
    item: Item
    codes: bool = False
    """Whether the result keeps the codes, for the modelled rate."""

    @property
    def key(self) -> Key:
        """Key of the trial in the journal."""
        assert self.number is not None
        return self.label, self.number, self.index

    @property
    def curve(self) -> str:
        """Name of the curve in the journal."""
        return curve_name(self.label, self.index)


@dataclass
class Outcome:
    """What a task came to."""

    result: ItemResult | None = None
    """Result of a trial, without its signals; None for a curve."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further values for the journal: the tile of a trial, or the curve."""
    warned: list[str] = field(default_factory=list)
    """Warnings of another process, to be repeated in the first one."""


def curve_name(label: str, index: int) -> str:
    return f"curve {label} {index}"


def tile_name(key: Key) -> str:
    return "tile {} {} {}".format(*key)


class Performer:
    """Performs the tasks of a process.

    Args:
        folder: Folder in which the exhibits are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warm: set[str] = set()

    def trial(self, task: Task, measurement: CodecMeasurement) -> Outcome:
        """Measure an item at one setting. The first call for a codec is done twice, since it imports packages."""
        if task.label not in self.warm:
            self.warm.add(task.label)
            measurement.attempt(task.item)
        result = measurement.attempt(task.item)
        start, facts = time.perf_counter(), {}
        if task.codes and result.trial:
            result.codes = pack(result.trial.codes)
        if task.position < MOST[measurement.entry.modality]:
            place = f"{task.place:02d}-{task.number:02d}"  # codecs may have like names
            tile = make_tile(task.position, task.item, place, measurement, result, self.folder)
            facts = {tile_name(task.key): to_plain(tile)} if tile else {}
        result.trial = None  # it holds the signals
        result.other_seconds += time.perf_counter() - start
        return Outcome(result, facts)

    def curve(self, task: Task, search: TargetSearch) -> Outcome:
        """Return the curve of an item, or the reason of a failure."""
        start = time.perf_counter()
        curve = search.attempt(task.item)
        known = {"failed": curve} if isinstance(curve, str) else {"tokens": curve.tokens, "psnr": curve.psnr}
        return Outcome(facts={task.curve: known | {"seconds": time.perf_counter() - start}})


def failed(task: Task, reason: str = CRASHED) -> Outcome:
    """Return the outcome of a task that ended the process, or must not begin."""
    if task.number is None:
        return Outcome(facts={task.curve: {"failed": reason}})
    return Outcome(ItemResult(key=task.item.key, digest=digest(task.item), failed=reason))
