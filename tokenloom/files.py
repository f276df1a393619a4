"""Atomic writes of one file or several, names of files, and the folders of the user.

A file is complete or absent: the data is written to a temporary file next to the destination and flushed to disk, then
the file is renamed. The temporary name is short, so that the file can have the longest name that the disk takes. Its
writer holds a lock on the temporary file, so that `sweep` finds those of killed processes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LONGEST = 255
"""Largest number of bytes of a file name."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of the disk in the middle of a file."""
LINKLESS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""Errors of file systems without hard links."""
PART = r"\.[0-9a-f]{16}\.part"
"""Name of a temporary file."""


@contextmanager
def writing(path: Path, *, place: Path | None = None, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` on success. On failure `path` is unchanged.

    The folder of `path` is created if needed.

    Args:
        path: The file.
        place: Folder of the temporary file, on the same disk; None for that of `path`.
        new: Whether to refuse a file that exists at the end.

    Raises:
        FileExistsError: If `path` exists and must be new.
        OSError: If the disk is full, or `path` cannot be written. The error names `path`.
    """
    with _part(path, place) as part, naming(path, part):
        yield part
        sync(part)
        if new:
            _place(part, path)
        else:
            part.replace(path)
        sync(path.parent)


def write(path: Path, data: bytes | str, *, new: bool = False) -> None:
    """Write bytes, or text as UTF-8, to `path` atomically; see `writing`. Characters that UTF-8 lacks are escaped."""
    with writing(path, new=new) as part:
        part.write_bytes(_bytes(data))


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Write several files. All are complete on disk before the first one is renamed."""
    with ExitStack() as stack:
        parts = {path: stack.enter_context(_part(path)) for path in contents}
        for path, content in contents.items():
            with naming(path, parts[path]):
                parts[path].write_bytes(_bytes(content))
                sync(parts[path])
        for path, part in parts.items():
            with naming(path, part):
                part.replace(path)
        for folder in {path.parent for path in contents}:
            sync(folder)


@dataclass(frozen=True)
class FileSet:
    """Several files that are replaced as one, so that a folder never holds files of two runs.

    The new files are complete in a hidden folder before the first old one is removed, and the first new one is moved
    when all old ones are gone. After a kill, the folder holds files of one run only; `settle` moves those that are
    missing. The functions need the lock of the folder (see `lock.locked`).

    Attributes:
        name: Name in that of the hidden folders.
        patterns: Globs of all files, relative to their folder. Those of the first are the first to be removed and the
            last to be moved: whoever finds one, finds all.
    """

    name: str
    patterns: tuple[str, ...]

    @property
    def hidden(self) -> tuple[str, str, str]:
        """Names of the folder of new files: incomplete, while old files are removed, and while it is emptied."""
        return f".{self.name}.new", f".{self.name}.ready", f".{self.name}.moving"

    @contextmanager
    def replacing(self, folder: Path) -> Iterator[Path]:
        """Yield an empty folder for new files. At the end they replace all files of the set. On failure these stay."""
        self.settle(folder)
        new, ready, _ = (folder / name for name in self.hidden)
        fresh = not folder.exists()
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            yield new
            for path in sorted(new.rglob("*"), reverse=True):  # a folder after its content
                sync(path)
            sync(new)
            new.rename(ready)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            if fresh:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()
            raise
        sync(folder)
        self.settle(folder)

    def pending(self, folder: Path) -> bool:
        """Return whether a kill has cut a replacement short."""
        return any(map(_is_folder, (folder / name for name in self.hidden[1:])))

    def settle(self, folder: Path) -> None:
        """Complete a replacement that a kill has cut short."""
        _, ready, moving = (folder / name for name in self.hidden)
        if _is_folder(ready):
            for pattern in self.patterns:
                for path in folder.glob(pattern):
                    if not path.is_dir():  # it is the user's
                        path.unlink()
            ready.rename(moving)
        if _is_folder(moving):
            for path in sorted((path for path in moving.rglob("*") if not path.is_dir()), key=self._turn(moving)):
                target = folder / path.relative_to(moving)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)
                sync(target.parent)
            shutil.rmtree(moving)

    def _turn(self, moving: Path) -> Callable[[Path], tuple[bool, Path]]:
        """Return the sorting key of the files to move."""
        first = set(moving.glob(self.patterns[0]))
        return lambda path: (path in first, path)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not os.path.islink(path)


def sweep(folder: Path, *, deep: bool = False) -> None:
    """Remove the temporary files of killed processes from a folder, and with `deep` from its subfolders."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if deep and entry.is_dir(follow_symlinks=False):
                sweep(Path(entry.path))
            elif re.fullmatch(PART, entry.name) and entry.is_file(follow_symlinks=False):
                _remove_abandoned(entry.path)


def is_at(file: int, path: Path) -> bool:
    """Return whether an open file still has its name. Another process may have removed or replaced it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


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
def _part(path: Path, place: Path | None = None) -> Iterator[Path]:
    """Yield the path of a new, locked temporary file next to `path`, and remove it at the end, if it is still there."""
    for folder in {path.parent, place or path.parent}:
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        part = (place or path.parent) / f".{secrets.token_hex(8)}.part"
        with naming(path, part):
            held = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks
            if fcntl is not None:
                fcntl.flock(held, fcntl.LOCK_EX)
        if is_at(held, part):
            break
        os.close(held)  # `sweep` came before the lock
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)
        os.close(held)


def _remove_abandoned(part: str) -> None:
    """Remove a temporary file unless its writer lives."""
    if fcntl is None:
        return
    with suppress(OSError):
        file = os.open(part, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(part)
        finally:
            os.close(file)


def _place(part: Path, path: Path) -> None:
    """Give a complete file its name. Raises FileExistsError if there is one of this name, also if it came just now."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in LINKLESS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        part.replace(path)


def _bytes(data: bytes | str) -> bytes:
    return data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data


def sync(path: Path) -> None:
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
