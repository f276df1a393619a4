"""A record of what reaches the disk, in order."""

from __future__ import annotations

import os
from typing import Any

import pytest


def record(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with every rename: "name: flushed" if all bytes of the file were flushed, else "name".

    Every flush adds "flush".
    """
    events: list[str] = []
    flushed: set[tuple[int, int, int]] = set()
    fsync, replace = os.fsync, os.replace

    def state(found: os.stat_result) -> tuple[int, int, int]:
        return found.st_ino, found.st_size, found.st_mtime_ns

    def recorded_fsync(file: int) -> None:
        fsync(file)
        flushed.add(state(os.fstat(file)))
        events.append("flush")

    def recorded_replace(source: Any, target: Any) -> None:
        events.append(os.path.basename(target) + ": flushed" * (state(os.stat(source)) in flushed))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return events
