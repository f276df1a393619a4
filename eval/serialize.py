"""Conversion of dataclasses to JSON and back, and of rows to CSV. Keys are the names of fields, in their order."""

from __future__ import annotations

import csv
import io
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

OPTIONAL = {"optional": True}
"""Metadata of a dataclass field that is written only if it has a value."""
HUGE = 1e100
"""Bound of the numbers in a file that is read."""


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


def from_plain(kind: Any, value: Any) -> Any:
    """Invert `to_plain` for a type: a dataclass, a list or dict of them, a plain value, or any of these with None.

    Raises:
        ValueError: The value has another type, or lacks a field.
    """
    if isinstance(kind, types.UnionType):
        members = typing.get_args(kind)
        if value is None and types.NoneType in members:
            return None
        kind = next((m for m in members if type(value) is m), next(m for m in members if m is not types.NoneType))
    if value is None:
        if kind is not Any:
            raise ValueError(f"null must be a {getattr(kind, '__name__', kind)}")
        return None
    if is_dataclass(kind):
        return _record(kind, value)
    container, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    accepted = {float: (float, int), str: (str,), int: (int,), bool: (bool,), list: (list,), dict: (dict,)}
    if not isinstance(value, accepted.get(container, object)):
        raise ValueError(f"{value!r:.80} must be a {container.__name__}")
    if container is list and arguments:
        return [from_plain(arguments[0], v) for v in value]
    if container is dict and arguments:
        return {key: from_plain(arguments[1], v) for key, v in value.items()}
    return value


def _record(kind: Any, value: Any) -> Any:
    """Return a dataclass from the plain values of its fields."""
    hints = typing.get_type_hints(kind)
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.80} must be a {kind.__name__}")
    if unknown := value.keys() - hints:
        raise ValueError(f"{kind.__name__} has no field {min(unknown)!r:.80}")
    try:
        return kind(**{key: from_plain(hints[key], v) for key, v in value.items()})
    except TypeError as error:
        raise ValueError(f"{kind.__name__} lacks a field: {error}") from error


def from_json(path: Path, largest: int) -> Any:
    """Return the content of a JSON file, which can be a stranger's: sums and squares of its numbers stay finite.

    Raises ValueError for a file of more than `largest` bytes, a float beyond HUGE, NaN, and an integer of more than 64
    bits.
    """
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it must have at most {largest:,} bytes")
    return json.loads(data, parse_float=_finite, parse_int=_int64, parse_constant=_finite)


def _finite(text: str) -> float:
    if not abs(value := float(text)) < HUGE:  # NaN is not, either
        raise ValueError(f"a number must lie within ±{HUGE:g}, got {text:.20}")
    return value


def _int64(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= 1 << 63:
        raise ValueError(f"an integer must have at most 64 bits, got {text:.20}…")
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
