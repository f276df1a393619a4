"""The progress bar of every long command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:,.0f}" + (f"/{task.total:,.0f}" if task.total else ""))


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        digits = 0 if (task.total or 0) > 10_000 else 2
        return Text(f"{task.speed:,.{digits}f} {self.unit}/s" if task.speed else "", style="progress.data.speed")


class Bar:
    """A progress bar, opened by `bar`."""

    def __init__(self, progress: Progress, task: TaskID, width: int) -> None:
        self._progress, self._task, self._width = progress, task, width

    def __call__(self, amount: float = 1, text: str | None = None) -> None:
        """Advance the bar by `amount`, and replace its text if `text` is not None."""
        description = None if text is None else f"{text:<{self._width}.{self._width}}"
        self._progress.update(self._task, advance=amount, description=description)

    def move_to(self, amount: float, total: float | None) -> None:
        """Set the bar to `amount`, and replace its total if `total` is not None."""
        self._progress.update(self._task, completed=amount, total=total)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def bar(text: str, total: float | None, unit: str, *, done: float = 0, width: int = 28) -> Iterator[Bar]:
    """Show a progress bar on standard error with count, rate and remaining time, and remove it at the end.

    Without a terminal, show nothing.

    Args:
        text: Text in front of the bar.
        total: Amount of work, in `unit`; None if unknown.
        unit: Plural noun, such as "items".
        done: Amount of work that is done already.
        width: Number of characters of later texts.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), _Count(), _Speed(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        progress.update(task, completed=done)
        yield Bar(progress, task, width)
