"""Reading a tokenized data set: its index, and its rows as `Codes`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenloom.codecs.codec import Codec

from .optional import get_format
from .row import TokenRow

INDEX = "_index.json"
"""Arrow reads a folder of Parquet files as one table and skips names that begin with an underscore."""
VERSION = 1
ENTRIES = {"complete": bool, "format": str, "codec": dict, "shards": list}
SHARD = {"name": str, "bytes": int, "items": int}
"""Entries of an index and of its shards → their types."""
NAME = r"[^/\\:\0.][^/\\:\0]{0,62}"
"""A file name without a folder, of at most 255 bytes."""


def read_index(folder: str | Path) -> dict[str, Any]:
    """Return the index that `tokenloom tokenize` wrote: codec, setting, spec, data, shards, totals.

    Raises:
        FileNotFoundError: The folder has no index.
        ValueError: The index is damaged or of another version.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no tokens: {path} does not exist; tokenloom tokenize writes it")
    try:
        index = json.loads(path.read_bytes())
        version = index["version"] if isinstance(index, dict) else None
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if version != VERSION:
        raise ValueError(f"{path} has version {version!r:.80}; this tokenloom reads {VERSION}")
    if wrong := _wrong(index, ENTRIES) or next((w for s in index["shards"] if (w := _wrong(s, SHARD))), None):
        raise ValueError(f"{path} is damaged: it must have {wrong}")
    if stray := [shard["name"] for shard in index["shards"] if not re.fullmatch(NAME, shard["name"])]:
        raise ValueError(f"{path} must name shards in its folder, got {stray[0]!r:.80}")
    return index


def _wrong(given: Any, entries: Mapping[str, type]) -> str | None:
    """Return what a mapping lacks or has of another type, in words."""
    held = given if isinstance(given, dict) else {}
    return next((f"{key}: {kind.__name__}" for key, kind in entries.items() if type(held.get(key)) is not kind), None)


def check(index: Mapping[str, Any], codec: Codec, folder: str | Path) -> None:
    """Raise ValueError unless `codec` wrote these tokens, with the same weights."""
    wrote = {"fingerprint": None, "source": "another codec", "name": "unknown"} | index["codec"]
    if wrote["fingerprint"] != codec.fingerprint.hex():
        raise ValueError(
            f"{folder} holds tokens of {wrote['source']} ({wrote['name']}, fingerprint {wrote['fingerprint']}), "
            f"not of this {codec.name} ({codec.fingerprint.hex()})"
        )


def read(folder: str | Path, codec: Codec | None = None) -> Iterator[TokenRow]:
    """Iterate over the rows of a tokenized data set in the order of the data.

        codec = codecs.load("natural-fsq")
        for row in tokens.read("tokens/photos", codec):
            image = codec.decode(row.codes)[0]  # equal to codec.decode(codec.encode(item))

    Args:
        folder: Written by `tokenize`.
        codec: Codec whose fingerprint must match, if given.

    Raises:
        FileNotFoundError: The folder has no index.
        ValueError: The codec differs, shards are missing, or, while iterating, a shard is damaged.
    """
    index, folder = complete_index(folder, codec), Path(folder)
    rows = get_format(index["format"]).read
    return (row for shard in index["shards"] for row in _read_shard(folder / shard["name"], rows))


def complete_index(folder: str | Path, codec: Codec | None = None) -> dict[str, Any]:
    """Return the index of a folder with all shards, which `codec`, if given, wrote. Raises as `read` does."""
    folder = Path(folder)
    index = read_index(folder)
    if codec is not None:
        check(index, codec, folder)
    if not index["complete"]:
        raise ValueError(f"{folder} is not complete; the same tokenloom tokenize continues it")
    for shard in index["shards"]:
        if not is_whole(folder, shard):
            raise ValueError(f"{folder / shard['name']} is missing or cut; the same tokenloom tokenize writes it again")
    return index


def is_complete(folder: str | Path) -> bool:
    """Return whether a folder holds all shards of a data set."""
    try:
        index = read_index(folder)
    except FileNotFoundError:
        return False
    return index["complete"] and all(is_whole(Path(folder), shard) for shard in index["shards"])


def is_whole(folder: Path, shard: Mapping[str, Any]) -> bool:
    """Return whether a shard exists with the size in its report."""
    path = folder / shard["name"]
    return path.is_file() and path.stat().st_size == shard["bytes"]


def _read_shard(path: Path, rows: Callable[[Path], Iterator[TokenRow]]) -> Iterator[TokenRow]:
    with naming_damage(path):
        yield from rows(path)


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Raise ValueError in one line for any error in the block that reads a shard."""
    try:
        yield
    except Exception as error:  # tarfile, NumPy, JSON and Arrow raise a dozen types for damage
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"{path} is damaged: {reason or type(error).__name__}") from error
