"""Conversion of dataclasses to JSON and back, and of rows to CSV. Keys are the names of fields, in their order."""

from __future__ import annotations

import csv
import io
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

OPTIONAL = {"optional": True}
"""Metadata of a dataclass field that is written only if it has a value."""


def to_plain(value: Any) -> Any:
    """Convert dataclasses to dicts and tuples to lists, recursively. Other values stay."""
    if is_dataclass(value):
        pairs = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: to_plain(v) for f, v in pairs if v is not None or not f.metadata.get("optional")}
    if isinstance(value, dict):
        return {key: to_plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """Invert `to_plain` for a type: a dataclass, a list or dict of them, or any of these with None."""
    if value is None:
        return value
    if isinstance(kind, types.UnionType):
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{key: from_plain(hints[key], v) for key, v in value.items()})
    container, arguments = typing.get_origin(kind), typing.get_args(kind)
    if container is list and arguments:
        return typing.cast(T, [from_plain(arguments[0], v) for v in value])
    if container is dict and arguments:
        return typing.cast(T, {key: from_plain(arguments[1], v) for key, v in value.items()})
    return value


def to_json(value: Any) -> str:
    """Return the text of a JSON file. Raises ValueError for NaN and infinity."""
    return json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(rows: Sequence[Mapping[str, Any]], keys: Sequence[str] | None = None) -> str:
    """Return the text of a CSV file with the columns `keys`; default: all keys, in the order of their first use."""
    text = io.StringIO()
    header = keys or list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, header, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
