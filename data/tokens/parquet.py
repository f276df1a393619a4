"""Shards as Parquet files. Equal rows make equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from .row import TokenRow, make_codes

SUFFIX = ".parquet"
ROW_GROUP = 256
"""Rows that are written and read at once."""
GROUPS = 4
"""Row groups that random access keeps in memory."""


@contextmanager
def writer(file: IO[bytes], dtype: str) -> Iterator[Callable[[TokenRow], None]]:
    """Write the columns key, indices (flat), shape (quantizers, *grid), size, length, side, caption, meta (JSON)."""
    schema, waiting = _schema(dtype), []
    with parquet.ParquetWriter(file, schema, compression="zstd") as out:

        def flush() -> None:
            if waiting:
                out.write_table(pa.Table.from_pylist(waiting, schema=schema))
                waiting.clear()

        def write(row: TokenRow) -> None:
            waiting.append(_columns(row, dtype))
            if len(waiting) == ROW_GROUP:
                flush()

        yield write
        flush()


def read(path: Path) -> Iterator[TokenRow]:
    """Read the rows of a shard in order."""
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(ROW_GROUP):
            yield from _rows(batch)


def positions(path: Path) -> np.ndarray:
    """Return what `read_at` needs to find each row: the first row of each group, int64, and the number of rows."""
    with parquet.ParquetFile(path) as file:
        counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    return np.cumsum([0, *counts])


def read_at(path: Path, found: np.ndarray, i: int) -> TokenRow:
    """Read row i of a shard, with the `positions` of the shard. Adjacent rows are decompressed once."""
    group = int(np.searchsorted(found, i, side="right")) - 1
    stat = path.stat()
    (row,) = _rows(_row_group(path, group, stat.st_mtime_ns, stat.st_size).slice(i - int(found[group]), 1))
    return row


@lru_cache(GROUPS)
def _row_group(path: Path, group: int, *version: int) -> pa.RecordBatch:
    with parquet.ParquetFile(path) as file:
        return file.read_row_group(group, use_threads=False).combine_chunks().to_batches()[0]


def _rows(batch: pa.RecordBatch) -> Iterator[TokenRow]:
    flat = batch.column("indices")
    for i, row in enumerate(batch.drop_columns(["indices"]).to_pylist()):
        indices = torch.tensor(flat[i].values.to_numpy(), dtype=torch.int64)
        sides = {s["name"]: torch.tensor(s["values"]).reshape(1, *s["shape"]) for s in row["side"]}
        codes = make_codes(indices.reshape(1, *row["shape"]), row["size"], row["length"], sides)
        yield TokenRow(row["key"], codes, row["caption"], json.loads(row["meta"]))


def _schema(dtype: str) -> pa.Schema:
    integers, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    side = pa.list_(pa.struct([("name", pa.string()), ("shape", integers), ("values", floats)]))
    return pa.schema(
        [
            ("key", pa.string()), ("indices", pa.list_(getattr(pa, dtype)())), ("shape", integers), ("size", integers),
            ("length", pa.int64()), ("side", side), ("caption", pa.string()), ("meta", pa.string()),
        ]
    )  # fmt: skip


def _columns(row: TokenRow, dtype: str) -> dict[str, Any]:
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
