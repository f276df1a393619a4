"""Formats and engines by name. They are imported on demand, because some need optional packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from tokenloom.errors import missing


class Choice(NamedTuple):
    """A module of this folder, and the package and extra that it needs, if any."""

    module: str
    needs: tuple[str, str] | None = None


FORMATS = {"webdataset": Choice("tar"), "parquet": Choice("parquet", ("pyarrow", "parquet"))}
ENGINES = {"local": Choice("local"), "ray": Choice("on_ray", ("ray", "ray"))}


def get_format(name: str) -> Any:
    """Return the module of a format, with SUFFIX, `writer` and `read` as in `tar`."""
    return get("format", name, FORMATS)


def get(key: str, name: str, choices: Mapping[str, Choice]) -> Any:
    """Return the module of a choice. Raises ValueError if it is unknown or its package is missing."""
    if name not in choices:
        raise ValueError(f"{key} must be one of {', '.join(choices)}, got {name!r:.80}")
    module, needs = choices[name]
    if needs and find_spec(needs[0]) is None:
        raise missing(*needs, f"{key}={name}")
    return import_module(f".{module}", __package__)
