"""Shards as tar files in the webdataset layout. Equal rows make equal bytes."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch

from .row import TokenRow, make_codes

SUFFIX = ".tar"
_UNSAFE = re.compile(r"[%.\\\x00-\x1f]|^__|^/|/$")
"""Not allowed in member names: webdataset ends a key at its first dot and skips names such as __this__."""


@contextmanager
def writer(file: IO[bytes], dtype: str) -> Iterator[Callable[[TokenRow], None]]:
    """Write KEY.npy (quantizers, *grid), KEY.json, KEY.txt, and KEY.NAME.npy for each side array, item by item."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive:

        def write(row: TokenRow) -> None:
            key = _UNSAFE.sub(lambda m: "".join(f"%{ord(c):02X}" for c in m[0]), row.key) or "%"
            for suffix, data in _members(row, dtype):
                info = tarfile.TarInfo(f"{key}.{suffix}")  # its time and owner are zeros
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

        yield write


def read(path: Path) -> Iterator[TokenRow]:
    """Read the rows of a shard in order."""
    with tarfile.open(path, "r:", encoding="utf-8") as archive:
        yield from _rows(archive)


def positions(path: Path) -> np.ndarray:
    """Return what `read_at` needs to find each row: the byte where it begins, int64, and the end of the last row."""
    starts, current = [], ""
    with tarfile.open(path, "r:", encoding="utf-8") as archive:
        for member in archive:
            if (key := _key(member)[0]) != current:
                starts.append(member.offset)
            current = key
        return np.array([*starts, archive.offset], dtype=np.int64)


def read_at(path: Path, found: np.ndarray, i: int) -> TokenRow:
    """Read row i of a shard, with the `positions` of the shard."""
    with path.open("rb") as file:
        file.seek(found[i])
        part = io.BytesIO(file.read(found[i + 1] - found[i]))
    with tarfile.open(fileobj=part, mode="r:", encoding="utf-8") as archive:
        return next(_rows(archive))


def _rows(archive: tarfile.TarFile) -> Iterator[TokenRow]:
    members: dict[str, bytes] = {}
    current = ""
    for member in archive:
        if not member.isreg() or member.issparse():
            raise ValueError(f"its member {member.name!r:.80} must be a plain file")
        key, suffix = _key(member)
        if key != current and members:
            yield _to_row(members)
            members = {}
        current = key
        members[suffix] = archive.extractfile(member).read()
    if members:
        yield _to_row(members)


def _key(member: tarfile.TarInfo) -> tuple[str, str]:
    """Return the key of a member's row, and the rest of its name."""
    folder, slash, name = member.name.rpartition("/")
    first, _, suffix = name.partition(".")
    return folder + slash + first, suffix


def _members(row: TokenRow, dtype: str) -> Iterator[tuple[str, bytes]]:
    codes, sides = row.codes, row.codes.side
    about = {
        "key": row.key,
        "size": codes.sizes[0].tolist(),
        "shape": list(codes.indices.shape[1:]),
        "length": None if codes.lengths is None else int(codes.lengths),
        "side": sorted(sides),
        "meta": row.meta,
    }
    yield "npy", _npy(codes.indices[0].numpy().astype(dtype))
    yield "json", json.dumps(about, sort_keys=True, default=str).encode()
    yield "txt", row.caption.encode("utf-8")
    for name in sorted(sides):
        yield f"{name}.npy", _npy(sides[name][0].numpy())


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _to_row(members: dict[str, bytes]) -> TokenRow:
    def array(suffix: str) -> torch.Tensor:
        return torch.from_numpy(np.load(io.BytesIO(members[suffix]), allow_pickle=False))[None]

    about = json.loads(members["json"])
    sides = {name: array(f"{name}.npy") for name in about["side"]}
    codes = make_codes(array("npy"), about["size"], about["length"], sides)
    return TokenRow(about["key"], codes, members["txt"].decode("utf-8"), about["meta"])
