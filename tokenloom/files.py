"""Atomic writes, and the cache folder.

A file is complete or absent: the data is written to a temporary file next to the destination and flushed to disk, then
the file is renamed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` on success. On failure `path` is unchanged.

    The folder of `path` is created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, to `path` atomically."""
    write_together({path: data})


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Write several files. All are complete on disk before the first one is renamed."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            parts[path].write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
            _sync(parts[path])
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def cache_folder() -> Path:
    """Return the folder of files that can be recomputed: $XDG_CACHE_HOME/tokenloom, or ~/.cache/tokenloom."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenloom"
