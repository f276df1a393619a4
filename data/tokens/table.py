"""The tokens of a data set in memory, with random access. They are computed once and cached on disk."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenloom import files, lock
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes

from .. import variants
from ..sources.source import Source
from . import reading
from .encoder import Encoder, EncoderConfig, plain_setting
from .job import ShardJob, sha256
from .row import TokenRow
from .writing import write_shards

BATCH = 32
"""Largest number of signals of one size that are encoded together."""


class TokenTable:
    """The codes of every copy of every item; `table[item, copy]` is a batch of one."""

    def __init__(self, rows: Iterable[TokenRow], copies: int = 1) -> None:
        stored: dict[str, list[Tensor]] = {"indices": [], "grids": [], "sizes": [], "lengths": []}
        for row in rows:
            codes = row.codes
            stored["indices"].append(codes.indices.flatten().to(torch.int32))
            stored["grids"].append(torch.tensor(codes.indices.shape[1:])[None])
            stored["sizes"].append(codes.sizes)
            stored["lengths"].append(torch.tensor([-1]) if codes.lengths is None else codes.lengths)
        self.tensors = {name: torch.cat(values) for name, values in stored.items()}
        self.copies = copies
        self.ends = self.tensors["grids"].prod(1).cumsum(0)

    def __getitem__(self, key: tuple[int, int]) -> Codes:
        item, copy = key
        if not 0 <= copy < self.copies:
            raise IndexError(f"the table has copies 0 to {self.copies - 1}, not {copy}")
        row = item * self.copies + copy
        grid, end = self.tensors["grids"][row].tolist(), int(self.ends[row])
        count = int(np.prod(grid))
        length = self.tensors["lengths"][row : row + 1]
        indices = self.tensors["indices"][end - count : end].long().reshape(1, *grid)
        return Codes(indices, self.tensors["sizes"][row : row + 1], None if length.item() < 0 else length)


def read_table(folder: str | Path, codec: Codec, setting: Any) -> TokenTable:
    """Read a folder that `tokenloom tokenize` wrote. Raises ValueError if codec or setting differ, or it is damaged."""
    index = reading.read_index(folder)
    reading.check(index, codec, folder)
    if index["setting"] != (expected := plain_setting(setting, codec)):
        raise ValueError(f"{folder} holds tokens of {codec.name} at setting {index['setting']}, not {expected}")
    return TokenTable(reading.read(folder))


def cached_table(
    source: Source, config: Mapping[str, Any], codec: Codec, encoder: Encoder, setting: Any, copies: int, cache: Path
) -> TokenTable:
    """Return the codes of all copies of a source, read from the cache or computed into it.

    The cache holds a folder of shards, in the format of `tokenloom tokenize`, for each data set, codec and setting.
    `source` was opened with `config`, and `encoder` encodes with the codec at `setting`.
    """
    name = codec.name.replace("/", "-")
    folder = files.fitting(cache / f"{source.name}-{name}-{_key(source, config, codec, setting, copies)}")
    signals = variants.Copies(source, copies, codec.spec)
    chosen = EncoderConfig({"name": codec.name}, codec.fingerprint.hex(), plain_setting(setting, codec), "cpu")
    job = ShardJob(signals, range(len(signals)), chosen, str(folder), "webdataset", 32 * BATCH, BATCH, strict=True)
    with lock.locked(folder, wait=True):  # one process encodes, the others wait
        _drop_damaged(folder)
        index = write_shards(
            job, codec, {**config, "copies": copies},
            lambda job, numbers: (event for number in numbers for event in job.shard(encoder, number)),
        )  # fmt: skip
    if refused := [line for shard in index["shards"] for line in shard["refused"]]:
        raise ValueError(f"{codec.name} cannot encode {refused[0]}")
    if index["totals"]["other"]:
        raise ValueError(f"{source.name} must hold {codec.spec.modality} alone for {codec.name}")
    return TokenTable(reading.read(folder), copies)


def _key(source: Source, config: Mapping[str, Any], codec: Codec, setting: Any, copies: int) -> str:
    """Return a hash that changes with the data, the weights of the codec, its setting, and the copies."""
    found = {}
    if "path" in config:
        root = Path(str(config["path"]))
        paths = sorted(root.rglob("*")) if root.is_dir() else sorted(root.parent.glob(root.name))
        found = {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.is_file()}
    ranges = [variants.SHIFT, variants.SCALE, variants.SPEED, variants.GAIN_DB]
    parts = [dict(config), len(source), found, codec.fingerprint.hex(), str(setting), copies, ranges]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _drop_damaged(folder: Path) -> None:
    """Remove shards that differ from their reports, and everything if the index is damaged."""
    try:
        index = reading.read_index(folder)
        digests = {folder / shard["name"]: shard["sha256"] for shard in index["shards"]}
        damaged = [path for path, digest in digests.items() if not path.is_file() or sha256(path) != digest]
    except FileNotFoundError:
        return
    except ValueError:
        damaged = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if damaged:
        warnings.warn(f"{damaged[0]} is damaged and computed again", stacklevel=4)
        for path in damaged:
            path.unlink(missing_ok=True)
