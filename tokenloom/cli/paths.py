"""Input and output files: default names, and the checks made before any work."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tokenloom import files
from tokenloom.cli import streams

SUFFIX = {"image": ".png", "audio": ".wav", "text": ".txt"}
"""Modality → suffix of the file that a signal is written to by default."""
STREAM = Path("-")
"""Standard input or standard output. A file of this name is ./-"""
EXISTS = "{} exists; replace it with --force, or name another file with -o"


def name(text: str) -> str:
    """Return a path or another name of a command, with the home folder in place of ~. For `type` of argparse."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    try:
        return files.expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def path(text: str) -> Path:
    """Return a path of a command, with the home folder in place of ~. For `type` of argparse."""
    given = Path(name(text))
    return given.absolute() if text != "-" and given == STREAM else given  # ./- is a file


def check_input(source: Path, required: str) -> None:
    """Raise ValueError or FileNotFoundError unless `source` is a file or -. The message calls it `required`."""
    if source == STREAM:
        return
    if source.is_dir():
        raise ValueError(f"the input must be {required}, {source} is a folder")
    if not source.exists():
        raise FileNotFoundError(f"there is no file {source}; the input must be {required}")


def check_output(output: Path, source: Path | None = None, *, force: bool) -> None:
    """Raise ValueError or OSError if `output` cannot be written, or is the input `source`. - is standard output.

    A file that exists is replaced only if `force` is set.
    """
    if output == STREAM:
        if sys.stdout.isatty():
            raise ValueError("the output is not text for a terminal; redirect it, or name a file with -o")
        return
    if (length := len(os.fsencode(output.name))) > files.LONGEST:
        raise ValueError(f"the name of the output must have at most {files.LONGEST} bytes, it has {length}")
    if output.is_dir():
        raise ValueError(f"the output must be a file, {output} is a folder")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent} to write {output.name} to")
    if output.exists():
        if source is not None and output.samefile(source):
            raise ValueError(f"{output} is the input; name another output with -o")
        if not output.is_file():
            raise ValueError(f"the output must be a regular file, {output} is not")
        if not force:
            raise ValueError(EXISTS.format(output))
    if not os.access(output.parent, os.W_OK):
        raise PermissionError(f"the folder {output.parent} cannot be written to")


def derived(source: Path, suffix: str) -> Path:
    """Return the default output of an input: its name with another suffix, shortened if the disk does not take it."""
    return fitting(source.with_suffix(suffix))


def fitting(output: Path) -> Path:
    """Return `output`, or a shorter name with a warning if the disk does not take a name of this length."""
    fits = files.fitting(output)
    if fits != output:
        warnings.warn(f"a name of {len(os.fsencode(output.name))} bytes is too long; writing {fits.name}", stacklevel=2)
    return fits


def content(source: Path) -> bytes:
    """Return the bytes of a file, or of standard input."""
    if source != STREAM:
        return source.read_bytes()
    if sys.stdin is None:
        raise ValueError("standard input is closed; name a file")
    return sys.stdin.buffer.read()


def write(output: Path, data: bytes, *, force: bool) -> None:
    """Write bytes to a file, atomically, or to standard output.

    Raises ValueError for a file that another command has written meanwhile, unless `force` is set.
    """
    if output == STREAM:
        streams.write(data)
        return
    files.sweep(output.parent)
    try:
        files.write(output, data, new=not force)
    except FileExistsError as error:
        raise ValueError(EXISTS.format(output)) from error


@contextmanager
def writing(output: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open a file, which is complete or absent at the end, or standard output, for bytes that come piece by piece.

    Raises ValueError for a file that another command has written meanwhile, unless `force` is set.
    """
    if output == STREAM:
        yield cast(BinaryIO, streams.Output())
        return
    files.sweep(output.parent)
    try:
        with files.writing(output, new=not force) as part, part.open("wb") as file:
            yield file
    except FileExistsError as error:
        raise ValueError(EXISTS.format(output)) from error


def report(output: Path, line: str) -> None:
    """Print a line about the output: to standard output, or to standard error if the output itself is there."""
    print(f"{output}: {line}", file=sys.stderr if output == STREAM else sys.stdout)
