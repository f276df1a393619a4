"""Data sets of the configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenloom import data
from tokenloom.data import Source


@dataclass(frozen=True)
class Dataset:
    """A source of items and its title in tables. If `strict`, a broken item is an error; else it is counted."""

    source: Source
    title: str
    strict: bool


def open_dataset(settings: Mapping[str, Any]) -> Dataset:
    """Open the data set of a `data` group, which has `name`, arguments of the source, and `strict`."""
    arguments = {key: value for key, value in settings.items() if key not in ("name", "strict")}
    if missing := [key for key, value in arguments.items() if value == "???"]:
        raise ValueError(f"data={settings['name']} needs data.{missing[0]}=…")
    source = data.open_source(settings["name"], **arguments)
    path, parts = arguments.get("path"), arguments.get("parts") or []
    title = Path(path).stem if isinstance(path, str) else " and ".join(part["name"] for part in parts)
    return Dataset(source, title or settings["name"], bool(settings.get("strict", False)))


def open_training(settings: Any) -> Dataset | None:
    """Open the data set of the key `training`; None if the key is null."""
    if settings is None:
        return None
    if not isinstance(settings, Mapping) or "name" not in settings:
        raise ValueError(f"training must name a data source, such as {{name: folder, path: photos}}, got {settings!r}")
    return open_dataset(settings)
