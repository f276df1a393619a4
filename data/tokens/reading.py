"""A data set as tokens on disk: its index, and its rows as `Codes` again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenloom.codecs.codec import Codec

from .shards import Row, format_of

INDEX = "_index.json"
"""Arrow reads a folder of Parquet files as one table and leaves out names that begin like this."""
VERSION = 1


def read_index(folder: str | Path) -> dict[str, Any]:
    """What `tokenloom tokenize` wrote of itself: codec, setting, spec, data, shards, totals.

    Raises FileNotFoundError where a folder has none, ValueError where it is none of ours.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no tokens: there is no {path}; tokenloom tokenize writes one")
    try:
        index = json.loads(path.read_bytes())
        version = index["version"] if isinstance(index, dict) else None
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if version != VERSION:
        raise ValueError(f"{path} has version {version!r}; this tokenloom reads {VERSION}")
    return index


def check(index: Mapping[str, Any], codec: Codec, folder: str | Path) -> None:
    """ValueError unless `codec` is the one that wrote these tokens, weights included."""
    wrote = index["codec"]
    if wrote["fingerprint"] != codec.fingerprint.hex():
        raise ValueError(
            f"{folder} holds tokens of {wrote['source']} ({wrote['name']}, fingerprint {wrote['fingerprint']}), "
            f"not of this {codec.name} ({codec.fingerprint.hex()})"
        )


def read(folder: str | Path, codec: Codec | None = None) -> Iterator[Row]:
    """Rows of a tokenised data set, in the order of the data: `key`, `codes` (a batch of one), `caption`, `meta`.

        codec = codecs.load("natural-fsq")
        for row in tokens.read("tokens/photos", codec):
            picture = codec.decode(row.codes)[0]  # what codec.decode(codec.encode(item)) gives

    codec  checked against the fingerprint in the index, if given
    Raises FileNotFoundError without an index, ValueError for another codec, for a data set that is not
    complete, and for a damaged shard.
    """
    folder = Path(folder)
    index = read_index(folder)
    if codec is not None:
        check(index, codec, folder)
    if not index["complete"]:
        raise ValueError(f"{folder} is not complete; the same tokenloom tokenize goes on with it")
    for shard in index["shards"]:
        if not is_whole(folder, shard):
            raise ValueError(f"{folder / shard['name']} is missing or cut; the same tokenloom tokenize makes it again")
    rows = format_of(index["format"]).read
    return (row for shard in index["shards"] for row in _named(folder / shard["name"], rows))


def is_complete(folder: str | Path) -> bool:
    """Whether a folder holds all shards of a data set."""
    try:
        index = read_index(folder)
    except FileNotFoundError:
        return False
    return index["complete"] and all(is_whole(Path(folder), shard) for shard in index["shards"])


def is_whole(folder: Path, shard: Mapping[str, Any]) -> bool:
    """Whether a shard is there, with the bytes that its report says."""
    path = folder / shard["name"]
    return path.is_file() and path.stat().st_size == shard["bytes"]


def _named(path: Path, rows: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    try:
        yield from rows(path)
    except Exception as error:  # tarfile, NumPy, JSON and Arrow have a dozen types for damage
        said = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"{path} is damaged: {said or type(error).__name__}") from error
