"""Trainings started from Python, and what they give."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenloom import codecs, lazy, models
from tokenloom.codecs import checkpoint, display

from .loop import Run
from .run_config import RunConfig

pandas = lazy.load("pandas", "frame")

SHOWN = 12
"""Most values that a notebook shows."""


@dataclass(frozen=True)
class TrainedRun:
    """A training that has ended.

    Attributes:
        folder: Folder of the weights, the log and the samples.
        steps: Number of steps that were trained, those before a resume included.
        interrupted: Whether Ctrl-C or a signal ended the training early.
    """

    folder: Path
    steps: int
    interrupted: bool = False

    def load(self) -> Any:
        """Return the trained codec, or the model or decoder."""
        load = codecs.load if "codec" in checkpoint.read_config(self.folder) else models.load
        return load(self.folder)

    @property
    def log(self) -> dict[int, dict[str, float]]:
        """The logged values: step → name → value."""
        found: dict[int, dict[str, float]] = {}
        with (self.folder / "log.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(int(row["step"]), {})[row["name"]] = float(row["value"])
        return found

    def frame(self) -> Any:
        """Return the log as a pandas DataFrame: a row for each step, a column for each name. Needs `pandas`."""
        frame = pandas.DataFrame.from_dict(self.log, orient="index")
        frame.index.name = "step"
        return frame.sort_index()

    def last(self) -> dict[str, float]:
        """Return the last value of each name."""
        return {name: value for _, values in sorted(self.log.items()) for name, value in values.items()}

    def __repr__(self) -> str:
        ended = ", interrupted" if self.interrupted else ""
        return f"TrainedRun({self.folder}: {self.steps} steps{ended})"

    def _repr_html_(self) -> str:
        values = [(name, f"{value:.4g}") for name, value in self.last().items()]
        return display.table_html(("value", "last"), values[:SHOWN], repr(self))


def run(cfg: RunConfig) -> TrainedRun:
    """Train with a complete configuration. Raises as `loop.Run` does."""
    training = Run(cfg)
    training.go()
    return TrainedRun(training.out, training.step, training.interrupted)
