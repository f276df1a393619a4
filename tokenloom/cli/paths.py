"""Input and output files: default names, and the checks made before any work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = {"image": ".png", "audio": ".wav", "text": ".txt"}
"""Modality → suffix of the file that a signal is written to by default."""


def check_input(source: Path, required: str) -> None:
    """Raise ValueError or FileNotFoundError unless `source` is a file. The message calls it `required`."""
    if source.is_dir():
        raise ValueError(f"the input must be {required}, {source} is a folder")
    if not source.exists():
        raise FileNotFoundError(f"there is no file {source}; the input must be {required}")


def check_output(output: Path, source: Path | None = None) -> None:
    """Raise ValueError or OSError if `output` cannot be written, or is the input `source`."""
    if output.is_dir():
        raise ValueError(f"the output must be a file, {output} is a folder")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent} to write {output.name} to")
    if output.exists():
        if source is not None and output.samefile(source):
            raise ValueError(f"{output} is the input; name another output with -o")
        if not output.is_file():
            raise ValueError(f"the output must be a regular file, {output} is not")
    if not os.access(output.parent, os.W_OK):
        raise PermissionError(f"the folder {output.parent} cannot be written to")


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Make errors of the operating system name the output instead of the temporary file next to it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{output} cannot be written: {error.strerror or error}") from error
