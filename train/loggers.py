"""What shows a run besides log.csv: TensorBoard, Weights & Biases, MLflow, each through its own library."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tokenloom import errors, lazy
from tokenloom.codecs import Modality, media
from tokenloom.registry import Registry

from .record import RunRecord

tensorboard = lazy.load("torch.utils.tensorboard", "train")
wandb = lazy.load("wandb", "wandb")
mlflow = lazy.load("mlflow", "mlflow")

CSV = "csv"
"""The log that every run writes, whatever `logger` says."""
PROJECT = "tokenloom"
"""Project of Weights & Biases, or experiment of MLflow, unless the environment names another."""
EXTRAS = {"tensorboard": "train", "wandb": "wandb", "mlflow": "mlflow"}
"""Package of each logger → extra of tokenloom that installs it."""


class Logger(Protocol):
    """Receives the values and the samples of a run. A resumed run continues in the same record."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def sample(self, step: int, name: str, path: Path) -> None:
        """Show a file that a validation wrote: an image, a sound or a text."""

    def close(self) -> None: ...


LOGGERS: Registry[type] = Registry("logger")


@LOGGERS.register("tensorboard")
class TensorBoard:
    """Events in `out/tensorboard`."""

    def __init__(self, out: Path, start: int, record: RunRecord) -> None:
        self._board = tensorboard.SummaryWriter(out / "tensorboard", purge_step=start or None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def sample(self, step: int, name: str, path: Path) -> None:
        modality = media.modality(path)
        signal = media.read(path, modality)
        if modality is Modality.TEXT:
            self._board.add_text(name, "\n\n".join(html.escape(line) for line in signal.splitlines()), step)
        elif modality is Modality.IMAGE:
            self._board.add_image(name, signal, step)
        else:  # TensorBoard plays mono only
            self._board.add_audio(name, signal.mean(0, keepdim=True), step, media.sample_rate(path))

    def close(self) -> None:
        self._board.close()


@LOGGERS.register("wandb")
class WeightsAndBiases:
    """A run of Weights & Biases. WANDB_MODE=offline keeps it in `out/wandb`, and WANDB_PROJECT names the project."""

    def __init__(self, out: Path, start: int, record: RunRecord) -> None:
        known = record.loggers.get("wandb")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT), name=out.name, dir=str(out), config=record.config,
                id=known, resume="allow" if known else None,
            )  # fmt: skip
        except wandb.errors.Error as error:
            raise ValueError(
                f"logger=wandb: {errors.first_line(error)}; log in with `wandb login`, or set WANDB_MODE=offline"
            ) from error
        record.loggers["wandb"] = self._run.id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def sample(self, step: int, name: str, path: Path) -> None:
        modality = media.modality(path)
        if modality is Modality.TEXT:
            shown = wandb.Html(f"<pre>{html.escape(path.read_text('utf-8'))}</pre>")
        else:
            shown = wandb.Image(str(path)) if modality is Modality.IMAGE else wandb.Audio(str(path))
        self._run.log({name: shown}, step=step)

    def close(self) -> None:
        self._run.finish()


@LOGGERS.register("mlflow")
class MLflow:
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names, else in MLflow's default."""

    def __init__(self, out: Path, start: int, record: RunRecord) -> None:
        try:
            if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
                mlflow.set_experiment(PROJECT)
            known = record.loggers.get("mlflow")
            run = mlflow.start_run(run_id=known, run_name=None if known else out.name)
            if not known:
                mlflow.log_params({key: str(value)[:500] for key, value in _flatten(record.config).items()})
        except mlflow.exceptions.MlflowException as error:
            raise ValueError(f"logger=mlflow: {errors.first_line(error)}") from error
        record.loggers["mlflow"] = run.info.run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        mlflow.log_metrics(dict(values), step=step)

    def sample(self, step: int, name: str, path: Path) -> None:
        mlflow.log_artifact(str(path), "samples")

    def close(self) -> None:
        mlflow.end_run()


def check(names: Any) -> list[str]:
    """Return the loggers of a config besides CSV. Raises ValueError if one is unknown or not installed."""
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, Sequence) or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"logger must be a name or a list such as [csv,tensorboard], got {names!r}")
    chosen = [name for name in dict.fromkeys(listed) if name != CSV]
    for name in chosen:
        if name not in LOGGERS:
            raise ValueError(errors.unknown("logger", name, [CSV, *LOGGERS]))
        if find_spec(name) is None:
            raise errors.missing(name, EXTRAS[name], f"logger={name}")
    return chosen


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
