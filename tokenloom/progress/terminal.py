"""The progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from . import Bar


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = f"/{task.total:,.0f}" if task.total else ""
        return Text(f"{task.completed:,.0f}{total}" if total or task.completed else "")


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        digits = 0 if (task.total or 0) > 10_000 else 2
        return Text(f"{task.speed:,.{digits}f} {self.unit}/s" if task.speed else "", style="progress.data.speed")


class RichBar(Bar):
    """A progress bar with count, rate and remaining time."""

    def __init__(self, progress: Progress, task: TaskID, width: int) -> None:
        super().__init__("", None, "", 0)
        self._progress, self._task, self._width = progress, task, width

    def __call__(self, amount: float = 1, text: str | None = None) -> None:
        description = None if text is None else f"{text:<{self._width}.{self._width}}"
        self._progress.update(self._task, advance=amount, description=description)

    def move_to(self, amount: float, total: float | None) -> None:
        self._progress.update(self._task, completed=amount, total=total)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def open_bar(text: str, total: float | None, unit: str, done: float, width: int) -> Iterator[Bar]:
    """Show a bar on standard error, and remove it at the end. See `progress.bar`."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Count(), _Speed(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=total)
        progress.update(task, completed=done)
        yield RichBar(progress, task, width)
