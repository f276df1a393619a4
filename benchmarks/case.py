"""One row of the benchmark: the same work by tokenloom and by a peer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """The same work by tokenloom and by a peer.

    Attributes:
        subject: Heading of the row.
        work: What is computed.
        peer: The package, or the plain way without one.
        ours: Computes it with tokenloom.
        theirs: Computes it with the peer.
        check: Receives both results, and raises AssertionError unless they agree. Returns how they do.
        floor: Computes the least that any way must, such as the matrix product alone; None if that is not known.
    """

    subject: str
    work: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    check: Callable[[Any, Any], str]
    floor: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds of process time."""

    subject: str
    work: str
    peer: str
    ours: float
    theirs: float
    floor: float | None
    results: str

    @property
    def ratio(self) -> float:
        """Time of the peer relative to ours: above 1, tokenloom is faster."""
        return self.theirs / self.ours


def measure(case: Case, turns: int) -> Row:
    """Run both sides, and the floor, by turns, so that all meet the same state of the machine."""
    sides = {"ours": case.ours, "theirs": case.theirs} | ({"floor": case.floor} if case.floor else {})
    results = {name: side() for name, side in sides.items()}  # the first run also warms up
    agreement = case.check(results["ours"], results["theirs"])
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            began = time.process_time()
            side()
            times[name].append(1000 * (time.process_time() - began))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Row(case.subject, case.work, case.peer, medians["ours"], medians["theirs"], medians.get("floor"), agreement)
