"""Dataclasses as plain values for JSON, and back; records as CSV.

The keys of a file are the names of the fields, in their order.
"""

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
"""Metadata of a dataclass field that is left out of the file if it is None."""


def to_plain(value: Any) -> Any:
    """Return dataclasses as dicts, tuples as lists, recursively; other values as they are."""
    if is_dataclass(value):
        pairs = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: to_plain(v) for f, v in pairs if v is not None or not f.metadata.get("optional")}
    if isinstance(value, dict):
        return {key: to_plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """Return what `to_plain` was given, a `kind`: a dataclass, or a list or dict of them, possibly None."""
    if value is not None and isinstance(kind, types.UnionType):
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    if value is not None and is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{key: from_plain(hints[key], v) for key, v in value.items()})
    container, arguments = typing.get_origin(kind), typing.get_args(kind)
    if value is not None and container is list and arguments:
        return typing.cast(T, [from_plain(arguments[0], v) for v in value])
    if value is not None and container is dict and arguments:
        return typing.cast(T, {key: from_plain(arguments[1], v) for key, v in value.items()})
    return value


def to_json(value: Any) -> str:
    """Return the text of a JSON file; NaN and infinity are a ValueError."""
    return json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(rows: Sequence[Mapping[str, Any]], keys: Sequence[str] | None = None) -> str:
    """Return the text of a CSV file: a header, and a line for each row.

    Args:
        rows: Mappings of plain values.
        keys: The columns; default: all keys of the rows, in the order of their first use.
    """
    text = io.StringIO()
    header = keys or list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, header, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
