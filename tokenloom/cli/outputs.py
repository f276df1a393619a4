"""Names of output files, and the checks made before any work."""

from __future__ import annotations

import os
from pathlib import Path

from tokenloom.codecs import Modality

SUFFIX = {Modality.IMAGE: ".png", Modality.AUDIO: ".wav", Modality.TEXT: ".txt"}
"""Suffix of the file that a signal is written to by default."""


def check(output: Path, source: Path | None = None) -> None:
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
