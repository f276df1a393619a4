"""The progress of every long command: a bar on a terminal, else a line every half minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tokenloom import lazy

bars = lazy.load("tokenloom.bars", "train")

SECONDS = 30
"""Time between two lines."""


class Bar:
    """The progress of one command, opened by `bar`. This class prints lines on standard error.

    Attributes:
        text: What is being done.
        done: Amount of work that is done.
        total: Amount of work in all; None if unknown.
        unit: Plural noun, such as "items".
    """

    def __init__(self, text: str, total: float | None, unit: str, done: float) -> None:
        self.text, self.total, self.unit, self.done = text, total, unit, done
        self._began, self._before = time.monotonic(), done

    def __call__(self, amount: float = 1, text: str | None = None) -> None:
        """Advance by `amount`, and replace the text if `text` is not None."""
        self.done += amount
        self.text = self.text if text is None else text

    def move_to(self, amount: float, total: float | None) -> None:
        """Set the amount that is done, and replace the total if `total` is not None."""
        self.done, self.total = amount, self.total if total is None else total

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return count, rate and remaining time as text."""
        parts = [f"{self.done:,.0f}" + (f" of {self.total:,.0f} {self.unit}" if self.total else f" {self.unit}")]
        if (speed := (self.done - self._before) / max(time.monotonic() - self._began, 1e-9)) > 0:
            parts.append(f"{speed:,.{0 if speed > 100 else 2}f} {self.unit}/s")
            if self.total and self.total > self.done:
                parts.append(f"about {duration((self.total - self.done) / speed)} left")
        return f"{self.text.strip()}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Return a time as text: 2 h 05 min, 3 min, 40 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{max(1, round(seconds))} s"


@contextmanager
def bar(text: str, total: float | None, unit: str, *, done: float = 0, width: int = 28) -> Iterator[Bar]:
    """Show progress on standard error: a bar on a terminal, which is removed at the end, else lines.

    A bar needs the package rich, which the extras train and eval install.

    Args:
        text: What is being done.
        total: Amount of work, in `unit`; None if unknown.
        unit: Plural noun, such as "items".
        done: Amount of work that is done already.
        width: Number of characters of later texts in front of a bar.
    """
    if sys.stderr.isatty() and find_spec("rich"):
        with bars.open_bar(text, total, unit, done, width) as shown:
            yield shown
        return
    shown, ended = Bar(text, total, unit, done), threading.Event()

    def tell() -> None:
        while not ended.wait(SECONDS):
            shown.say(shown.line())

    teller = threading.Thread(target=tell, daemon=True)  # a thread, since one step may take minutes
    teller.start()
    try:
        yield shown
    finally:
        ended.set()
        teller.join()
