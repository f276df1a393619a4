"""Labels of training runs: the codec and the settings in which the runs of a sweep differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

SWEEP = "multirun.yaml"
"""File that Hydra leaves in the folder of a sweep."""
IGNORED = ("codec", "out", "resume", "stop_after", "hydra")
"""Overrides that say nothing about the codec beyond its own config."""


def run_labels(paths: list[str]) -> list[str]:
    """Return a label for each path: the path, or for a job of a sweep a description.

    A description is the codec, the settings in which runs of this codec differ, and the folder's name, such as
    `image/fsq widths=[8,16] (3)`. If two runs have the same description, each ends with its whole path.
    """
    runs = {path: _settings(Path(path)) for path in paths if (Path(path).absolute().parent / SWEEP).is_file()}
    described = {path: _describe(run, runs.values()) for path, run in runs.items()}
    short = {path: f"{text} ({Path(path).name})" for path, text in described.items()}
    names = list(short.values())
    long = {path: f"{text} ({path})" for path, text in described.items()}
    return [
        path if path not in runs else short[path] if names.count(short[path]) == 1 else long[path] for path in paths
    ]


def _describe(run: Mapping[str, str], runs: Iterable[Mapping[str, str]]) -> str:
    """Return the codec, and each key whose value is not the same in all runs of that codec."""
    same_codec = [other for other in runs if other["name"] == run["name"]]
    differing = [key for key in run if len({other.get(key) for other in same_codec}) > 1]
    return " ".join([run["name"], *(f"{key}={run[key]}" for key in differing)])


def _settings(folder: Path) -> dict[str, str]:
    """Return name and arguments of a run's codec, and the other overrides of its command."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    codec = config.get("codec") if isinstance(config, dict) else None
    settings = {key: _compact(value) for key, value in codec.items()} if isinstance(codec, dict) else {}
    settings.setdefault("name", folder.name)
    overrides = folder / ".hydra" / "overrides.yaml"
    given = yaml.safe_load(overrides.read_text(encoding="utf-8")) if overrides.is_file() else []
    for override in given or []:
        key, _, value = str(override).lstrip("+~").partition("=")
        if key.split(".")[0] not in IGNORED:
            settings[key] = value
    return settings


def _compact(value: Any) -> str:
    return f"[{','.join(map(_compact, value))}]" if isinstance(value, list) else str(value)
