"""Sources of a signal (paths, bytes, PIL images, arrays), and error messages about them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tokenloom import errors

from ..types import Modality


class FileSection(NamedTuple):
    """Some bytes of a file, such as a member of a tar archive. They are read where they are needed."""

    path: str
    offset: int
    size: int
    name: str

    def open(self) -> BinaryIO:
        """Open the bytes as a file of their own."""
        return io.BufferedReader(_Part(self))


class _Part(io.RawIOBase):
    """The open file of a section."""

    def __init__(self, section: FileSection) -> None:
        self._file = open(section.path, "rb")  # noqa: SIM115 - closed in `close`
        self._offset, self._size, self._at = section.offset, section.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._at)])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


Source = str | os.PathLike | bytes | bytearray | memoryview | io.BytesIO | FileSection | Image.Image | np.ndarray

NOUNS = {Modality.IMAGE: "an image", Modality.AUDIO: "audio", Modality.TEXT: "text"}


def require_file(path: Path, kind: Modality) -> None:
    """Raise an error unless `path` is an existing file."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; it must be a file that holds {NOUNS[kind]}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; it must hold {NOUNS[kind]}")


def openable(source: Any) -> str | BinaryIO:
    """Return a path, or a new file object over the bytes, for Pillow and soundfile."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, io.BytesIO):
        return io.BytesIO(source.getvalue())
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    raise ValueError(f"the source must be a path, bytes, a PIL image or an array, got {describe(source)}")


@contextmanager
def binary(source: Any) -> Iterator[BinaryIO]:
    """Open a path, a section or a bytes-like source. A pipe is read to its end: files are read from several places."""
    if isinstance(source, FileSection):
        with source.open() as part:
            yield part
        return
    file = openable(source)
    if not isinstance(file, str):
        yield file
        return
    with open(file, "rb") as opened:
        yield opened if opened.seekable() else io.BytesIO(opened.read())


def content(source: Any) -> bytes:
    """Return the bytes of a path or of a bytes-like source."""
    file = openable(source)
    return Path(file).read_bytes() if isinstance(file, str) else file.read()


def label(source: Any) -> str:
    """Return the name of a source for error messages."""
    if isinstance(source, FileSection):
        return source.name
    if isinstance(source, str | os.PathLike):
        return errors.printable(os.fspath(source))
    return {Image.Image: "the PIL image", np.ndarray: "the array"}.get(type(source), f"the {type(source).__name__}")


def describe(signal: Any) -> str:
    """Return type and shape of a value for error messages."""
    if isinstance(signal, Tensor | np.ndarray):
        return f"{str(signal.dtype).removeprefix('torch.')} array of shape {tuple(signal.shape)}"
    return type(signal).__name__


@contextmanager
def refusing(name: str, kind: Modality) -> Iterator[None]:
    """Convert any error of a library to a ValueError of one line. Damaged files raise a dozen types."""
    try:
        yield
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its message is the address of an object
        reason = "its format is damaged or not supported" if unknown else errors.first_line(error)
        reason = re.sub(r" ?<_io\.\w+ (object at 0x[0-9a-f]+|name=.*)>", "", reason)
        raise ValueError(f"{name} cannot be read as {NOUNS[kind]}: {reason}") from error


def require_range(signal: Tensor, low: int, path: Path) -> None:
    """Raise ValueError unless all values are finite and in [low, 1]."""
    if not signal.isfinite().all():
        raise ValueError(f"{path}: the signal contains NaN or infinity")
    if signal.min() < low or signal.max() > 1:
        raise ValueError(f"{path}: values must be in [{low}, 1], got [{signal.min():.4g}, {signal.max():.4g}]")
