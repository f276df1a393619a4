"""What tells the runs of a sweep apart: labels by codec and by what differs, in place of `multirun/…/0`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SWEEP = "multirun.yaml"
"""What Hydra leaves in the folder that holds the folders of a sweep's jobs."""
APART = ("codec", "out", "resume", "stop_after")
"""Overrides that say nothing about the codec beyond what its own config does."""


def labels(paths: list[str]) -> list[str]:
    """A label for each: the path itself or, for a job of a sweep, its codec, what differs, and the folder's name.

    `image/fsq widths=[8,16] (3)`: what differs is told among the runs of one codec. A label that would stand for
    two runs (of two sweeps) ends with the whole path instead.
    """
    runs = {path: _read(Path(path)) for path in paths if (Path(path).absolute().parent / SWEEP).is_file()}
    chosen = {path: f"{_described(run, runs.values())} ({Path(path).name})" for path, run in runs.items()}
    all_ = list(chosen.values())
    return [
        path if path not in runs
        else chosen[path] if all_.count(chosen[path]) == 1
        else f"{_described(runs[path], runs.values())} ({path})"
        for path in paths
    ]  # fmt: skip


def _described(run: Mapping[str, str], runs: Any) -> str:
    """The codec, and each key whose value is not the same in all runs of that codec."""
    same_codec = [other for other in runs if other["name"] == run["name"]]
    differing = [key for key in run if len({other.get(key) for other in same_codec}) > 1]
    return " ".join([run["name"], *(f"{key}={run[key]}" for key in differing)])


def _read(folder: Path) -> dict[str, str]:
    """`name` and arguments of a run's codec, then the other overrides that it was started with."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    codec = config.get("codec") if isinstance(config, dict) else None
    facts = {key: _compact(value) for key, value in codec.items()} if isinstance(codec, dict) else {}
    facts.setdefault("name", folder.name)
    overrides = folder / ".hydra" / "overrides.yaml"
    given = yaml.safe_load(overrides.read_text(encoding="utf-8")) if overrides.is_file() else []
    for override in given or []:
        key, _, value = str(override).lstrip("+~").partition("=")
        if key.split(".")[0] not in (*APART, "hydra"):
            facts[key] = value
    return facts


def _compact(value: Any) -> str:
    return f"[{','.join(map(_compact, value))}]" if isinstance(value, list) else str(value)
