"""What a run leaves to look at: log.csv, TensorBoard events, samples/, a progress bar."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tokenloom import files


class Logs:
    """Scalars to log.csv (long form: step, name, value) and TensorBoard; a bar with loss, items/s and ETA."""

    def __init__(self, out: Path, start: int, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.samples = out / "samples"
        self.samples.mkdir(exist_ok=True)
        path = out / "log.csv"
        _drop_after(path, start)
        fresh = not path.exists()
        self._file = path.open("a", newline="", buffering=1)
        self._csv = csv.writer(self._file)
        if fresh:
            self._csv.writerow(["step", "name", "value"])
        self._board = SummaryWriter(out / "tensorboard", purge_step=start or None)
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
        )  # fmt: skip
        self.console = Console(stderr=True)
        self._bar = Progress(*columns, console=self.console, refresh_per_second=2)
        self._task = self._bar.add_task("training", total=steps, completed=start, figures="")
        self._since = time.perf_counter()
        self._items = 0
        self._bar.start()

    def advance(self, step: int, items: int) -> None:
        self._items += items
        self._bar.update(self._task, completed=step)

    def scalars(self, step: int, values: dict[str, float], bar: bool = False) -> None:
        for name, value in values.items():
            self._csv.writerow([step, name, f"{value:.6g}"])
            self._board.add_scalar(name, value, step)
        if bar:
            self._bar.update(self._task, figures="  ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def rate(self) -> float:
        """Items per second since the last call."""
        now = time.perf_counter()
        rate, self._items, self._since = self._items / max(now - self._since, 1e-9), 0, now
        return rate

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()
        self._board.close()
        self._file.close()


class NoLogs(Logs):
    """What the processes of a run other than the first log: nothing."""

    def __init__(self) -> None:
        pass

    def advance(self, step: int, items: int) -> None:
        pass

    def scalars(self, step: int, values: dict[str, float], bar: bool = False) -> None:
        pass

    def rate(self) -> float:
        return 0.0

    def say(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass


def _drop_after(path: Path, step: int) -> None:
    """A resumed run writes the steps after its checkpoint again: forget what an interruption left."""
    if not path.exists():
        return
    lines = path.read_text().splitlines()
    kept = [line for line in lines[1:] if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= step]
    files.write(path, "\n".join([lines[0] if lines else "step,name,value", *kept, ""]))
