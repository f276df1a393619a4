"""Formats of shards and engines that write them, by name; imported on demand, since some need optional packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from tokenloom.errors import missing

from .row import TokenRow


class Choice(NamedTuple):
    """A module of this folder, and the package and extra that it needs, if any."""

    module: str
    needs: tuple[str, str] | None = None


FORMATS = {"webdataset": Choice("tar"), "parquet": Choice("parquet", ("pyarrow", "parquet"))}
ENGINES = {"local": Choice("local"), "ray": Choice("on_ray", ("ray", "ray"))}


class Format(Protocol):
    """A module that writes and reads shards."""

    SUFFIX: str

    def writer(self, file: IO[bytes], dtype: str) -> AbstractContextManager[Callable[[TokenRow], None]]:
        """Yield a function that writes a row with indices of `dtype` to `file`."""
        ...

    def read(self, path: Path) -> Iterator[TokenRow]:
        """Read the rows of a shard in order."""
        ...


def get_format(name: str) -> Format:
    """Return a format. Raises ValueError if it is unknown or its package is missing."""
    return get("format", name, FORMATS)


def get(key: str, name: str, choices: Mapping[str, Choice]) -> Any:
    """Return the module of a choice. Raises ValueError if it is unknown or its package is missing."""
    if name not in choices:
        raise ValueError(f"{key} must be one of {', '.join(choices)}, got {name!r}")
    module, needs = choices[name]
    if needs and find_spec(needs[0]) is None:
        raise missing(*needs, f"{key}={name}")
    return import_module(f".{module}", __package__)
