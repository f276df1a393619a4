"""The file `run.json` of a run: its config, and when, where and with which versions it ran.

`tokenloom train resume=FOLDER` reads the config from it. It holds plain values only, and nothing in it is trusted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenloom import devices, environment, files, own_code
from tokenloom.codecs import checkpoint, registry
from tokenloom.environment import Environment

from . import machine, state
from .run_config import RunConfig

NAME = "run.json"
FINISHED = "finished"
_ROOT = Path(environment.__file__).resolve().parents[1]
SOURCE = _ROOT if (_ROOT / "pyproject.toml").is_file() else None
"""Folder of tokenloom's source; None if it is installed, where the Git commit would be that of another project."""
NOT_KEPT = ("out", "resume", "stop_after")
"""Keys of the config that belong to one start of a run, not to the run."""


@dataclass(kw_only=True)
class TrainingSession(Environment):
    """One start of a run, from its first to its last step."""

    started: str = field(default_factory=environment.now)
    ended: str | None = None
    status: str = "running"
    """running (or killed), finished, stopped, interrupted or failed."""
    first_step: int
    last_step: int
    processes: int
    folder: str = field(default_factory=lambda: str(Path.cwd()))
    """Current folder, which relative paths in the config refer to."""
    revision: str | None = field(default_factory=lambda: environment.revision(Path.cwd()))
    """Git commit of `folder`, "-dirty" with changes."""
    tokenloom_revision: str | None = field(default_factory=lambda: environment.revision(SOURCE) if SOURCE else None)
    """Git commit of tokenloom itself, if it runs from a checkout."""


class RunRecord:
    """The content of `out/run.json`: one `TrainingSession` for each start, and the ids of the run in its loggers."""

    def __init__(self, out: Path, cfg: RunConfig, step: int) -> None:
        self.path = out / NAME
        before = _read(self.path) if self.path.is_file() else {}
        self.sessions = list(before.get("sessions", []))
        self.loggers: dict[str, str] = dict(before.get("loggers", {})) if step else {}
        self.config = {key: value for key, value in asdict(cfg).items() if key not in NOT_KEPT}
        self.imports = [{"file": Path(path).name, "sha256": own_code.sha256(Path(path))} for path in cfg.imports]
        local, machines = machine.processes()
        self.session = TrainingSession(
            seed=cfg.seed, seconds=0.0, first_step=step, last_step=step, processes=local * machines,
            device=devices.describe(devices.resolve(cfg.device)),
        )  # fmt: skip
        self.write()

    def end(self, step: int, status: str, seconds: float) -> None:
        """Record the end of the session."""
        self.session.last_step, self.session.status, self.session.seconds = step, status, round(seconds, 1)
        self.session.ended = environment.now()
        self.write()

    def write(self) -> None:
        """Write the file atomically."""
        content = {"config": self.config, "imports": self.imports, "loggers": self.loggers}
        content["sessions"] = [*self.sessions, asdict(self.session)]
        files.write(self.path, json.dumps(content, indent=1, default=str) + "\n")


def is_finished(out: Path) -> bool:
    """Return whether the last session of a run reached the last step and wrote the model."""
    path = out / NAME
    sessions = _read(path).get("sessions") if path.is_file() else None
    return bool(sessions) and sessions[-1].get("status") == FINISHED


def saved(out: Path) -> tuple[dict[str, Any], Path | None]:
    """Return the config of a run, and the folder that its relative paths refer to; None if that folder is gone.

    The user's files of the run are run if the user has imported them before (see `tokenloom.own_code`).

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If run.json is damaged, or needs a file that was not imported.
    """
    path = out / NAME
    if not path.is_file():
        older = f"an older version wrote the run: repeat its command with resume=true out={out}"
        way = older if state.exists(out) else "no run began there"
        raise FileNotFoundError(f"resume={out}: there is no {NAME}; {way}")
    content = _read(path)
    config, sessions = content.get("config"), content.get("sessions")
    if not isinstance(config, dict) or not isinstance(sessions, list) or not sessions:
        raise ValueError(f"{path} is damaged: it lacks the config or the sessions")
    config["imports"] = own_code.recall(content.get("imports"), out)
    for name in filter(registry.is_reference, checkpoint.texts(config)):
        registry.codec_class(name)  # it must be in a file that has run now: the record of a run names no other
    folder = Path(str(sessions[-1].get("folder")))
    return config, folder if folder.is_dir() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it must hold a mapping, got {type(content).__name__}")
    return content
