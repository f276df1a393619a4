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
        members: dict[str, bytes] = {}
        current = ""
        for member in archive:
            folder, slash, name = member.name.rpartition("/")
            first, _, suffix = name.partition(".")
            if (key := folder + slash + first) != current and members:
                yield _to_row(members)
                members = {}
            current = key
            members[suffix] = archive.extractfile(member).read()
        if members:
            yield _to_row(members)


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
