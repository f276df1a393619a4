"""Notices: what is lost or changed when a signal is read or converted.

A notice is a warning. A caller that reads many signals collects their notices instead, and reports each kind in one
line.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from tokenloom.errors import printable


class Notice(NamedTuple):
    """What happened, in words that are the same for all signals, and the details of one signal."""

    kind: str
    detail: str = ""


_collected: ContextVar[list[Notice] | None] = ContextVar("collected", default=None)


def tell(subject: str, kind: str, detail: str = "") -> None:
    """Tell that `kind` happened to `subject`: warn, or add to the notices that the caller collects."""
    found = _collected.get()
    if found is None:
        warnings.warn(_line(subject, Notice(kind, detail)), stacklevel=3)
    else:
        found.append(Notice(kind, detail))


@contextmanager
def collect() -> Iterator[list[Notice]]:
    """Collect the notices of this thread within the block, instead of warning."""
    found: list[Notice] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


class Tally:
    """The notices on many items: the number of items of each kind, and the first one."""

    def __init__(self) -> None:
        self.kinds: dict[str, tuple[int, str]] = {}

    def add(self, subject: str, notices: Iterable[Notice]) -> None:
        """Count the notices on one item, each kind once."""
        for kind, detail in dict(notices).items():
            count, first = self.kinds.get(kind, (0, ""))
            self.kinds[kind] = (count + 1, first or _line(subject, Notice(detail)))

    def merge(self, kinds: Mapping[str, Sequence[Any]]) -> None:
        """Add the `kinds` of another tally, which may come from JSON."""
        for kind, (count, first) in kinds.items():
            before, earlier = self.kinds.get(kind, (0, ""))
            self.kinds[kind] = (before + count, earlier or first)

    def lines(self, total: int) -> list[str]:
        """Return a line for each kind."""
        return [f"{count} of {total} items: {kind}, first: {first}" for kind, (count, first) in self.kinds.items()]

    def warn(self, name: str, total: int) -> None:
        """Warn once of each kind, for a data set of `total` items."""
        for line in self.lines(total):
            warnings.warn(f"{name}: {line}", stacklevel=3)


def _line(subject: str, notice: Notice) -> str:
    text = f"{notice.kind} ({notice.detail})" if notice.detail else notice.kind
    return printable(": ".join(part for part in (subject, text) if part))
