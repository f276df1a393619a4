"""Standard output and standard error of a command, on any terminal, pipe or closed stream.

What cannot be shown never ends the work: characters that the terminal does not have are replaced, and a stream that is
closed (`>&-`) or whose reader has left (`| head`) takes everything and shows nothing.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

ERRORS = "tokenloom"
"""Name under which Python finds `_replace`."""
ASCII = {
    "…": "...", "→": "->", "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "•": "*", "±": "+-", "≤": "<=",
    "≥": ">=", "²": "2", "Δ": "d", "√": "sqrt", "∞": "inf", "✓": "yes", "✗": "no", "“": '"', "”": '"', "’": "'",
}  # fmt: skip
"""What a terminal shows in place of a sign that it does not have."""


@contextmanager
def tolerant() -> Iterator[None]:
    """Make standard output and standard error tolerant inside the block, unless the caller has replaced them.

    Raises:
        OSError: At the end of the block, if what was written is lost for another reason than a missing reader, such as
            a full disk.
    """
    _open_closed()
    codecs.register_error(ERRORS, _replace)
    before, raw = (sys.stdout, sys.stderr), [_Stream(1), _Stream(2)]
    if sys.stdout is sys.__stdout__:  # None if it is closed
        sys.stdout = _text(raw[0], sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(raw[1], sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
    for stream, name in zip(raw, ("standard output", "standard error"), strict=True):
        if stream.error is not None and stream.error.errno not in (errno.EPIPE, errno.EBADF):
            raise OSError(stream.error.errno, stream.error.strerror, name)


def write(data: bytes) -> None:
    """Write bytes to standard output, as the result of a command.

    Raises:
        OSError: If they are lost: the stream is closed, its reader has left, or the disk is full.
    """
    if sys.__stdout__ is None:
        raise OSError(errno.EBADF, "it is closed", "standard output")
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    raw = getattr(sys.stdout.buffer, "raw", None)
    if isinstance(raw, _Stream) and raw.error is not None:
        error, raw.error = raw.error, None  # `tolerant` does not tell it again
        raise OSError(error.errno, error.strerror, "standard output") from error


class Output(io.RawIOBase):
    """Standard output as a file whose errors are raised; see `write`."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        write(bytes(data))
        return memoryview(data).nbytes


class _Stream(io.FileIO):
    """Standard output (1) or standard error (2). It swallows what it cannot write, and keeps the first error."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int | None:
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def _text(raw: _Stream, replaced: TextIO | None) -> io.TextIOWrapper:
    """Return a tolerant stream in the encoding of the one that it replaces."""
    if replaced is not None:
        replaced.flush()
    encoding = replaced.encoding if replaced is not None else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, ERRORS, line_buffering=raw.fileno() == 2 or raw.isatty())


def _open_closed() -> None:
    """Open the null device for closed streams. The next file that is opened would get their number otherwise."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what the terminal shows for a character that it does not have.

    A part of a file name that is not UTF-8 is shown as its byte, signs as in `ASCII`, and others by number: \\u9577.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if "\udc80" <= sign <= "\udcff":
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1
