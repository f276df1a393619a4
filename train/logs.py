"""The logs of a run: log.csv, the loggers of the config, samples/, and a progress bar."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from tokenloom import files, progress

from . import loggers
from .record import RunRecord

BAR_WIDTH = 100
"""Characters of the values in front of the bar."""


class Logs:
    """Writes scalars to log.csv (columns step, name, value) and to loggers, and shows a progress bar with values."""

    def __init__(self, out: Path, start: int, steps: int, chosen: Iterable[str], record: RunRecord) -> None:
        self.samples = out / "samples"
        self.samples.mkdir(exist_ok=True)
        path = out / "log.csv"
        self._known = _drop_after(path, start)
        fresh = not path.exists()
        self._loggers: list[loggers.Logger] = []
        with ExitStack() as stack:
            self._csv = csv.writer(stack.enter_context(path.open("a", newline="", buffering=1)))
            if fresh:
                self._csv.writerow(["step", "name", "value"])
            for name in chosen:
                self._loggers.append(loggers.LOGGERS[name](out, start, record))
                stack.callback(self._loggers[-1].close)
            self._bar = stack.enter_context(progress.bar("training", steps, "steps", done=start, width=BAR_WIDTH))
            self._stack = stack.pop_all()  # a logger that fails closes those before it
        self._since = time.perf_counter()
        self._items = 0

    def advance(self, items: int) -> None:
        """Count one step with this many items."""
        self._items += items
        self._bar()

    def scalars(self, step: int, values: dict[str, float], bar: bool = False) -> None:
        """Write values; with `bar`, show them in front of the progress bar too."""
        for name, value in values.items():
            if (step, name) not in self._known:
                self._csv.writerow([step, name, f"{value:.6g}"])
        for logger in self._loggers:
            logger.scalars(step, values)
        if bar:
            self._bar(0, "  ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def show_samples(self, step: int) -> None:
        """Send the files that a validation wrote to the loggers. Their names begin with the step."""
        for path in sorted(self.samples.glob(f"{step:07d}*")):
            part = path.stem.partition("-")[2]
            for logger in self._loggers:
                logger.sample(step, f"samples/{part}" if part else "samples", path)

    def rate(self) -> float:
        """Return the items per second since the last call."""
        now = time.perf_counter()
        rate, self._items, self._since = self._items / max(now - self._since, 1e-9), 0, now
        return rate

    def say(self, line: str) -> None:
        """Print a line."""
        self._bar.say(line)

    def close(self) -> None:
        """Close the files and the bar."""
        self._stack.close()


class NoLogs:
    """The logs of all processes but the first. Every call does nothing."""

    def __getattr__(self, name: str) -> Callable[..., float]:
        return lambda *_, **__: 0.0


def _drop_after(path: Path, step: int) -> set[tuple[int, str]]:
    """Remove the rows after a step, which a resumed run writes again, and one that is cut.

    Returns:
        Step and name of the rows of this step. A run that was killed during its last validation writes them again.
    """
    if not path.exists():
        return set()
    rows = path.read_text().split("\n")[:-1]  # a kill may have cut the last one
    kept = [row for row in rows[1:] if row.split(",")[0].isdigit() and int(row.split(",")[0]) <= step]
    files.write(path, "\n".join(["step,name,value", *kept, ""]))
    return {(step, row.split(",")[1]) for row in kept if row.startswith(f"{step},")}
