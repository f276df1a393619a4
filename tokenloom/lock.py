"""One run a folder: a lock that ends with its process, so that a killed run leaves no lock behind."""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import files

NAME = ".lock"
"""File in the folder that is locked. It holds the number of the process, and is removed at the end."""
ABSENT = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks."""
_open: set[int] = set()
"""Open files with a lock."""


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other runs out of a folder inside the block. The folder is created if needed.

    Temporary files of killed runs are removed from the folder and its subfolders. On a file system without locks the
    block runs after a warning.

    Args:
        folder: The folder of the run.
        wait: Whether to wait until the other run has left the folder.

    Raises:
        ValueError: If another run is in the folder. The message names its process.
        OSError: If the folder cannot be written to.
    """
    path = folder.resolve() / NAME
    file = _acquire(folder, path, wait)
    _open.add(file)
    try:
        with files.naming(folder):
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
        files.sweep(folder, deep=True)
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock ends: the file may be the next run's after that
        _open.discard(file)
        os.close(file)


def _acquire(folder: Path, path: Path, wait: bool) -> int:
    """Return the open file with the lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with files.naming(folder, path):
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another run removed the folder, which was empty
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = os.pread(file, 20, 0).decode("ascii", "replace") or "unknown"
            os.close(file)
            text = f"{folder} is in use by another run (process {holder}); wait until it ends or choose another folder"
            raise ValueError(text) from error
        except OSError as error:
            if error.errno not in ABSENT:
                os.close(file)
                raise
            warnings.warn(f"{folder} is on a file system without locks: start no second run in it", stacklevel=4)
            return file
        if files.is_at(file, path):
            return file
        os.close(file)  # the other run removed the file after this process opened it


def _close_in_child() -> None:
    """Close the files of the parent. A child that outlives a killed parent must not keep the folder locked."""
    for file in _open:
        os.close(file)
    _open.clear()


os.register_at_fork(after_in_child=_close_in_child)
