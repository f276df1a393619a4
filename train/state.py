"""Training state on disk: written atomically, read without running anything in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

NAME = "state.pt"


def save(state: dict[str, Any], out: Path) -> None:
    """Write `out/state.pt`: at every moment the file is the old state or the new one, whole."""
    temporary = out / f"{NAME}.part"
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out / NAME)
    except (OSError, RuntimeError) as error:  # torch hides what the disk said behind a RuntimeError
        temporary.unlink(missing_ok=True)
        disk = error if isinstance(error, OSError) else error.__context__
        if not isinstance(disk, OSError):
            raise
        reason = disk.strerror or disk
        raise OSError(
            f"the training state could not be written to {out}: {reason}; the previous one is whole"
        ) from error


def load(out: Path) -> dict[str, Any]:
    """The state in `out`; FileNotFoundError or ValueError in one line."""
    path = out / NAME
    if not path.is_file():
        raise FileNotFoundError(f"resume=true, but {path} is not there; start with resume=false")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged: {reason}") from error
