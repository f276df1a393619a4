"""The progress of every long command: a bar on a terminal, else lines at the start, every half minute and the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tokenloom import lazy

terminal = lazy.load("tokenloom.progress.terminal", "train")

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
        self._title, self._began, self._before = text, time.monotonic(), done
        self.started = threading.Event()
        """Set at the first progress. An error soon after the start stays the only line."""
        self.told = False
        """Whether a line was said."""

    def __call__(self, amount: float = 1, text: str | None = None) -> None:
        """Advance by `amount`, and replace the text if `text` is not None."""
        self.done += amount
        self.text = self.text if text is None else text
        self.started.set()

    def move_to(self, amount: float, total: float | None) -> None:
        """Set the amount that is done, and replace the total if `total` is not None."""
        self.done, self.total = amount, self.total if total is None else total
        self.started.set()

    def say(self, line: str) -> None:
        """Print a line."""
        print(f"{line}\n", end="", file=sys.stderr, flush=True)  # whole, whatever other threads print

    def line(self) -> str:
        """Return count, rate and remaining time as text; the time so far if nothing is done yet."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        parts = [f"{self.done:,.0f}" + (f" of {self.total:,.0f} {self.unit}" if self.total else f" {self.unit}")]
        if (speed := (self.done - self._before) / seconds) > 0:
            parts.append(f"{speed:,.{0 if speed > 100 else 2}f} {self.unit}/s")
            if self.total and self.total > self.done:
                parts.append(f"about {duration((self.total - self.done) / speed)} left")
        elif seconds >= SECONDS:
            parts = [*(parts if self.unit else []), f"{duration(seconds)} so far"]
        return f"{self._subject()}: {', '.join(parts)}"

    def last_line(self) -> str:
        """Return what was done in which time as text."""
        amount = f"{self.done:,.0f} {self.unit} in " if self.unit else ""
        return f"{self._title}: {amount}{duration(time.monotonic() - self._began)}"

    def _subject(self) -> str:
        text = " ".join(self.text.split())
        return text if text == self._title else f"{self._title}, {text}"


def duration(seconds: float) -> str:
    """Return a time as text: 2 h 05 min, 3 min, 40 s."""
    if round(seconds) < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


@contextmanager
def bar(
    text: str, total: float | None, unit: str, *, done: float = 0, width: int = 28, after: float = 0.0
) -> Iterator[Bar]:
    """Show progress on standard error: a bar on a terminal, which is removed at the end, else lines.

    A bar needs the package rich, which the extras train and eval install. Lines come at the first progress, or after
    SECONDS without any, then every SECONDS, and at the end, each with the count, the rate and the remaining time.

    Args:
        text: What is being done.
        total: Amount of work, in `unit`; None if unknown.
        unit: Plural noun, such as "items"; empty for work without steps, of which lines tell the time.
        done: Amount of work that is done already.
        width: Number of characters of later texts in front of a bar.
        after: Seconds before the first line. Shorter work prints none.
    """
    if sys.stderr.isatty() and find_spec("rich"):
        with terminal.open_bar(text, total, unit, done, width) as shown:
            yield shown
        return
    shown, ended = Bar(text, total, unit, done), threading.Event()
    teller = threading.Thread(target=_tell, args=(shown, ended, after), daemon=True)  # one step may take minutes
    complete = False
    try:
        teller.start()
        yield shown
        complete = True
    finally:
        ended.set()
        shown.started.set()
        teller.join()
    if complete and shown.told:
        shown.say(shown.last_line())


def _tell(shown: Bar, ended: threading.Event, after: float) -> None:
    """Say a line at the first progress and every SECONDS, until the work has ended."""
    wait = after if shown.started.wait(SECONDS) else 0.0
    while not ended.wait(wait):
        shown.say(shown.line())
        shown.told, wait = True, SECONDS
