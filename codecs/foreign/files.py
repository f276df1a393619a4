"""Find and read checkpoint files of other projects: safetensors and torch.save."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from .. import checkpoint
from . import torch_files

INDEX = ".safetensors.index.json"
WEIGHTS = ("model.safetensors", f"model{INDEX}", "pytorch_model.bin")
"""File names of weights on the hub, in the order of preference."""


def locate(source: str | Path, *names: str) -> Path:
    """Return the path of a checkpoint file, downloading it if needed.

    Args:
        source: A file, a folder or a hub id.
        *names: File names within a folder, in the order of preference; default: WEIGHTS.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    names = names or WEIGHTS
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if found := next((path / name for name in names if (path / name).is_file()), None):
            return found
        raise FileNotFoundError(f"{source} must contain {' or '.join(names)}; it contains none of them")
    if re.fullmatch(checkpoint.HUB_ID, str(source)) and not path.suffix.removeprefix(".").isalpha():
        return locate(checkpoint.download(str(source), [*names, "config.json", "*.safetensors"]), *names)
    raise FileNotFoundError(f"there is no checkpoint at {path.absolute()}")


def read(path: str | Path) -> dict[str, Any]:
    """Return the top-level mapping of a checkpoint. No code in it runs.

    Args:
        path: Safetensors file, index of several safetensors files, or file of torch.save. The latter is read with
            `weights_only`, and inert stand-ins replace classes of other packages.

    Raises:
        ValueError: If the file is damaged, or a tensor's shape exceeds its data.
    """
    path = Path(path)
    try:
        if path.name.endswith(INDEX):
            return _read_parts(path)
        return load_file(path) if path.suffix == ".safetensors" else torch_files.read(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # pickle, zip and safetensors have dozens of types
        raise ValueError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error


def _read_parts(index: Path) -> dict[str, Tensor]:
    files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    if stray := [name for name in files if Path(name).name != name]:
        raise ValueError(f"its part {stray[0]!r} lies outside its folder")
    return {key: value for name in sorted(set(files)) for key, value in load_file(index.parent / name).items()}


def _reason(error: Exception) -> str:
    """Return the line of an error that states the cause. PyTorch's messages add advice."""
    patterns = (r"WeightsUnpickler error:\s*(.+)", r"(Trying to load .+)", r"(.*)")
    return next(found[1] for pattern in patterns if (found := re.search(pattern, str(error))))[:300]
