"""Atomic writes, names of files, and the folders of the user.

A file is complete or absent: the data is written to a temporary file next to the destination and flushed to disk, then
the file is renamed. The temporary name is short, so that the file can have the longest name that the disk takes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

LONGEST = 255
"""Largest number of bytes of a file name."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of the disk in the middle of a file."""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` on success. On failure `path` is unchanged.

    The folder of `path` is created if needed.

    Raises:
        OSError: If the disk is full, or `path` cannot be written. The error names `path`.
    """
    with _part(path) as part, naming(path, part):
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)


def write(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, to `path` atomically. Characters that UTF-8 does not have are escaped."""
    write_together({path: data})


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Write several files. All are complete on disk before the first one is renamed."""
    with ExitStack() as stack:
        parts = {path: stack.enter_context(_part(path)) for path in contents}
        for path, content in contents.items():
            with naming(path, parts[path]):
                data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
                parts[path].write_bytes(data)
                _sync(parts[path])
        for path, part in parts.items():
            with naming(path, part):
                part.replace(path)
        for folder in {path.parent for path in contents}:
            _sync(folder)


@contextmanager
def naming(path: Path, part: Path | None = None) -> Iterator[None]:
    """Make errors of the disk name `path`: those of a full disk without a name, and those that name `part`.

    A library may raise an error of its own over the error of the disk.
    """
    try:
        yield
    except Exception as error:
        number = _disk_error(error, part)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def expand(path: str) -> str:
    """Return a path with the home folder in place of a leading ~ or ~user.

    Raises:
        ValueError: If there is no such user.
    """
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        raise ValueError(
            f"no user has the home folder {path.split('/', maxsplit=1)[0]}; a file of this name is ./{path}"
        )
    return expanded


def fitting(path: Path) -> Path:
    """Return `path`, or a shorter name in the same folder if the disk does not take a name of this length.

    The end of the stem is replaced by a hash of the whole name, so that different names stay different.
    """
    if len(os.fsencode(path.name)) <= LONGEST:
        return path
    end = f"~{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}{path.suffix}"
    stem = path.stem[:LONGEST]
    while len(os.fsencode(stem + end)) > LONGEST:
        stem = stem[:-1]
    return path.with_name(stem + end)


def cache_folder() -> Path:
    """Return the folder of files that can be recomputed: $XDG_CACHE_HOME/tokenloom, or ~/.cache/tokenloom."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenloom"


def config_folder() -> Path:
    """Return the folder of what the user has decided: $XDG_CONFIG_HOME/tokenloom, or ~/.config/tokenloom."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tokenloom"


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and remove the file at the end, if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF) or not path.is_dir():  # some file systems sync no folder
            raise
    finally:
        os.close(number)


def _disk_error(error: BaseException | None, part: Path | None) -> int | None:
    """Return the number of the disk's error behind `error`; None for another error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            name = error.filename
            if error.errno in FULL if name is None else part is not None and os.fsdecode(name) == str(part):
                return error.errno
        elif (named := re.search(r"\(os error (\d+)\)", str(error))) and int(named[1]) in FULL:  # safetensors
            return int(named[1])
        error = error.__cause__ or error.__context__
    return None
