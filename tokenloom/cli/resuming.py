"""`tokenloom train resume=FOLDER`: the configuration of a run from its own folder, instead of conf/train.yaml."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.config_store import ConfigStore

from tokenloom.cli.overrides import PATHS, literal
from tokenloom.train import record

CONFIG = "resumed"
"""Name of the configuration in Hydra's store."""
GROUPS = ("codec", "data", "decoder", "experiment", "omni")
KEY = "resume="


def folder(overrides: list[str]) -> Path | None:
    """Return the folder of `resume=FOLDER`; None without it, and for `resume=true out=FOLDER`."""
    values = [override.removeprefix(KEY).strip("\"'") for override in overrides if override.startswith(KEY)]
    if not values or values[-1].lower() in ("true", "false"):
        return None
    if not values[-1]:
        raise ValueError("resume must name the folder of a run, got an empty name")
    return Path(os.path.abspath(Path(values[-1]).expanduser()))


def prepare(run: Path, overrides: list[str], *, multirun: bool) -> tuple[str, list[str], Path | None]:
    """Store the configuration of a run in Hydra.

    Returns:
        The name of the configuration; the other overrides, with absolute paths; and the folder that relative paths of
        the run refer to, None if it is gone.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If an override cannot be combined with the run.
    """
    if multirun:
        raise ValueError(f"resume={run} continues one run, and -m starts several; leave out -m")
    rest = [override for override in overrides if not override.startswith(KEY)]
    for override in rest:
        key = override.lstrip("+~").partition("=")[0]
        if key in (*GROUPS, "out"):
            raise ValueError(f"resume={run} takes {key} from the run; leave out {override}")
    config, place = record.saved(run)
    given = any(override.startswith("imports=") for override in rest)
    node = {**config, "out": str(run), "resume": True, **({"imports": []} if given else {})}
    hydra = {"run": {"dir": "${out}"}, "job": {"name": "train", "chdir": False}}
    ConfigStore.instance().store(CONFIG, {"defaults": ["train_schema", "_self_"], **node, "hydra": hydra})
    return CONFIG, [_absolute(override) for override in rest], place


def _absolute(override: str) -> str:
    """Return an override with an absolute path, if its value is a path that exists here."""
    key, _, value = override.partition("=")
    path = value.strip("\"'")
    if key.rpartition(".")[2] in PATHS and path and Path(path).exists():
        return f"{key}={literal(str(Path(path).absolute()))}"
    return override
