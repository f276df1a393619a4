"""Records of a board. Their fields are the keys of board.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..compare.records import Place
from ..metric import ProtocolDescription, Summary
from ..serialize import OPTIONAL


@dataclass(kw_only=True)
class BoardRun:
    """Where records come from: one results file, with the machine and the date of its measurement."""

    file: str
    """The file as it was named."""
    title: str
    date: str
    machine: str
    device: str
    threads: int
    version: str
    """Version of tokenloom."""
    command: str
    remarks: list[str]
    """What is missing: items that were broken, codecs that coded no item, the rest of partial results."""


@dataclass(kw_only=True)
class BoardRow:
    """Figures of one codec at one setting on one set."""

    codec: str
    learned: bool
    parameters: int
    license: str | None = field(default=None, metadata=OPTIONAL)
    setting_name: str
    setting: Any
    run: int
    """Number of the run of the times, from 0."""
    n: int
    failed: int
    rates: dict[str, Summary]
    bits_per_token: dict[str, Summary]
    metrics: dict[str, Summary]
    front: list[str]
    """Metrics on whose Pareto front over the coded rate the row is."""
    learnability: dict[str, float]
    """Modelled rate as a share of the nominal rate and of the entropy, where they were measured."""
    encode_speed: float | None
    decode_speed: float | None
    speed_unit: str
    device: str


@dataclass(kw_only=True)
class Pick(Place):
    """The best setting of one codec below a limit of the rate."""

    setting: str
    rate: float
    n: int = 0
    """Number of items of the interval: those that both codecs have a value for."""


@dataclass(kw_only=True)
class Recommendation:
    """The codecs with a coded rate of at most `limit`, the best one in a metric first."""

    metric: str
    limit: float
    picks: list[Pick] = field(default_factory=list)

    @property
    def best(self) -> list[Pick]:
        """The first codec and those that tie with it."""
        return [pick for i, pick in enumerate(self.picks) if i == 0 or pick.tie]


@dataclass(kw_only=True)
class BoardSet:
    """All rows of one set of items in one modality, under one protocol."""

    title: str
    modality: str
    protocol: str
    items: int
    rate_unit: str
    metrics: list[str]
    """Metrics with a value in some row, in the order of the protocol."""
    rows: list[BoardRow]
    recommendations: list[Recommendation]
    problems: list[str]
    """A line for each metric, codec or item that is absent or failed."""


@dataclass(kw_only=True)
class Board:
    """The merged figures of several results files."""

    title: str
    date: str
    runs: list[BoardRun]
    protocols: dict[str, ProtocolDescription]
    definitions: dict[str, str]
    sets: list[BoardSet]
