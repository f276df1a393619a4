"""One shard of tokens as a file: a tar in the webdataset layout, or Parquet. Equal rows make equal bytes."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from tokenloom.codecs.types import Codes

ROW_GROUP = 256
"""Rows of a Parquet file that are written and read at once."""
_UNSAFE = re.compile(r"[%.\\\x00-\x1f]|^__|^/|/$")
"""What a name in a tar cannot hold: webdataset ends a key at its first dot and leaves out names such as __this__."""


@dataclass(frozen=True)
class Row:
    """The tokens of one item.

    key      of the item in its data set
    codes    a batch of one, without padding: what encoding the item alone gives
    caption  "" where unknown
    meta     whatever else the data set knows of it
    """

    key: str
    codes: Codes
    caption: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


def single(codes: Codes, row: int) -> Codes:
    """One item of a batch of equal-sized signals, as a batch of one: without what other items made it pad."""
    one = codes[row]
    indices = one.indices[:, : int(one.quantizers())]
    if one.lengths is not None:
        indices = indices[:, :, : int(one.lengths)]
    return Codes(indices, one.sizes, one.lengths, one.side)


def index_type(codebook_sizes: Iterable[int]) -> str:
    """The smallest integer type that holds every index and that NumPy, Arrow and PyTorch share."""
    most = max(codebook_sizes)
    return "uint8" if most <= 2**8 else "int16" if most <= 2**15 else "int32"


# -- tar ----------------------------------------------------------------------------------------


@contextmanager
def tar_writer(file: IO[bytes], dtype: str) -> Iterator[Callable[[Row], None]]:
    """KEY.npy (quantizers, *grid), KEY.json, KEY.txt, and KEY.NAME.npy of each side array, item after item."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive:

        def write(row: Row) -> None:
            key = _UNSAFE.sub(lambda m: "".join(f"%{ord(c):02X}" for c in m[0]), row.key) or "%"
            for suffix, data in _members(row, dtype):
                info = tarfile.TarInfo(f"{key}.{suffix}")  # its time and owner are zeros
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

        yield write


def _members(row: Row, dtype: str) -> Iterator[tuple[str, bytes]]:
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


def read_tar(path: Path) -> Iterator[Row]:
    with tarfile.open(path, "r:", encoding="utf-8") as archive:
        members: dict[str, bytes] = {}
        at = ""
        for member in archive:
            folder, slash, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            if (key := folder + slash + stem) != at and members:
                yield _row_of(members)
                members = {}
            at = key
            members[suffix] = archive.extractfile(member).read()
        if members:
            yield _row_of(members)


def _row_of(members: dict[str, bytes]) -> Row:
    def array(suffix: str) -> torch.Tensor:
        return torch.from_numpy(np.load(io.BytesIO(members[suffix]), allow_pickle=False))[None]

    about = json.loads(members["json"])
    sides = {name: array(f"{name}.npy") for name in about["side"]}
    codes = _codes(array("npy"), about["size"], about["length"], sides)
    return Row(about["key"], codes, members["txt"].decode("utf-8"), about["meta"])


def _codes(indices: torch.Tensor, size: list[int], length: int | None, side: dict[str, torch.Tensor]) -> Codes:
    return Codes(indices.long(), torch.tensor([size]), None if length is None else torch.tensor([length]), side)


# -- Parquet ------------------------------------------------------------------------------------


def _schema(dtype: str) -> Any:
    import pyarrow as pa

    integers, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    side = pa.list_(pa.struct([("name", pa.string()), ("shape", integers), ("values", floats)]))
    return pa.schema(
        [
            ("key", pa.string()), ("indices", pa.list_(getattr(pa, dtype)())), ("shape", integers), ("size", integers),
            ("length", pa.int64()), ("side", side), ("caption", pa.string()), ("meta", pa.string()),
        ]
    )  # fmt: skip


@contextmanager
def parquet_writer(file: IO[bytes], dtype: str) -> Iterator[Callable[[Row], None]]:
    """Columns key, indices (flat), shape (quantizers, *grid), size, length, side, caption, meta (JSON)."""
    import pyarrow as pa
    from pyarrow import parquet

    schema, waiting = _schema(dtype), []
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
                waiting.clear()

        def write(row: Row) -> None:
            waiting.append(_columns(row, dtype))
            if len(waiting) == ROW_GROUP:
                flush()

        yield write
        flush()


def _columns(row: Row, dtype: str) -> dict[str, Any]:
    codes = row.codes
    return {
        "key": row.key,
        "indices": codes.indices.flatten().numpy().astype(dtype),
        "shape": list(codes.indices.shape[1:]),
        "size": codes.sizes[0].tolist(),
        "length": None if codes.lengths is None else int(codes.lengths),
        "side": [
            {"name": name, "shape": list(value.shape[1:]), "values": value.flatten().numpy()}
            for name, value in sorted(codes.side.items())
        ],
        "caption": row.caption,
        "meta": json.dumps(row.meta, sort_keys=True, default=str),
    }


def read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(ROW_GROUP):
            flat = batch.column("indices")
            for i, row in enumerate(batch.drop_columns(["indices"]).to_pylist()):
                indices = torch.tensor(flat[i].values.to_numpy(), dtype=torch.int64)
                sides = {s["name"]: torch.tensor(s["values"]).reshape(1, *s["shape"]) for s in row["side"]}
                codes = _codes(indices.reshape(1, *row["shape"]), row["size"], row["length"], sides)
                yield Row(row["key"], codes, row["caption"], json.loads(row["meta"]))


# -- formats ------------------------------------------------------------------------------------


class Format(NamedTuple):
    """How a shard is written and read; `needs` is a package that has to be there, of the extra of its name."""

    suffix: str
    writer: Callable[[IO[bytes], str], AbstractContextManager[Callable[[Row], None]]]
    read: Callable[[Path], Iterator[Row]]
    needs: tuple[str, str] | None = None


FORMATS = {
    "webdataset": Format(".tar", tar_writer, read_tar),
    "parquet": Format(".parquet", parquet_writer, read_parquet, ("pyarrow", "parquet")),
}


def format_of(name: str) -> Format:
    """A format by name; a one-line ValueError for another name or a package that is missing."""
    if name not in FORMATS:
        raise ValueError(f"format {name!r} is none of {', '.join(FORMATS)}")
    require(f"format={name}", FORMATS[name].needs)
    return FORMATS[name]


def require(what: str, needs: tuple[str, str] | None) -> None:
    """ValueError that says what to install, where a package is missing."""
    if needs and find_spec(needs[0]) is None:
        raise ValueError(f"{what} needs the package {needs[0]}: pip install 'tokenloom[{needs[1]}]'")
