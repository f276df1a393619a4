"""Weights of an image tokenizer of transformers, or of the whole model that contains it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenloom import errors

from ... import foreign
from ...checkpoint import HUB_ID, download, read_mapping

PREFIXES = ("model.vqmodel.", "vqmodel.")
"""Prefixes of the tokenizer within the whole model, in different releases of transformers."""
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def locate(source: str) -> Path:
    """Return the folder of `config.json` for a folder, a file of weights or a hub id.

    Raises:
        FileNotFoundError: If the folder or its config does not exist.
    """
    path = Path(source).expanduser()
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        if not re.fullmatch(HUB_ID, source):
            raise FileNotFoundError(f"there is no checkpoint at {path.absolute()}")
        folder = download(source, ["config.json", f"model{foreign.INDEX}", *PROCESSOR_FILES])
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"the folder {folder} must hold config.json, it does not")
    return folder


def processor(folder: Path) -> dict[str, Any]:
    """Return the settings of the image processor next to a model; {} without one."""
    found = next((read_mapping(folder / name) for name in PROCESSOR_FILES if (folder / name).is_file()), {})
    inner = found.get("image_processor")
    return inner if isinstance(inner, dict) else found


def read(source: str, folder: Path, *, whole_model: bool) -> dict[str, Tensor]:
    """Return the tokenizer's state dict. Only files with its tensors are downloaded.

    Args:
        source: As for `locate`.
        folder: Result of `locate`.
        whole_model: Whether the weights are those of the whole model.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or holds no tensors of a tokenizer.
    """
    prefixes = PREFIXES if whole_model else ("",)
    path = Path(source).expanduser()
    if path.is_dir() or path.name == "config.json":
        path = foreign.locate(folder)
    elif not path.exists():
        index = folder / f"model{foreign.INDEX}"
        path = foreign.locate(download(source, sorted(_parts(index, prefixes)) if index.is_file() else foreign.WEIGHTS))
    state = _read(path, prefixes)
    if not state:
        raise ValueError(f"{folder} must hold tensors of a tokenizer, it holds none ({', '.join(prefixes)})")
    return state


def _parts(index: Path, prefixes: tuple[str, ...]) -> set[str]:
    """Return the files of a sharded checkpoint that hold tensors with these prefixes."""
    parts = read_mapping(index).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(file, str) for file in parts.values()):
        raise ValueError(f"{index} must have a weight_map of file names")
    files = {file for name, file in parts.items() if name.startswith(prefixes)}
    if stray := [file for file in files if Path(file).name != file]:
        raise ValueError(f"{index}: its part {stray[0]!r:.80} lies outside its folder")
    return files


def _read(path: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors with these prefixes, without the prefix. Other tensors of safetensors are not read."""
    if path.suffix not in (".safetensors", ".json"):
        found = foreign.tensors(foreign.read(path), "state_dict")
    else:
        sharded = path.suffix == ".json"
        found = {}
        for file in [path.parent / name for name in sorted(_parts(path, prefixes))] if sharded else [path]:
            if not file.is_file():
                raise FileNotFoundError(f"{path} names {file.name}, which does not exist")
            try:
                with safe_open(file, "pt") as part:
                    names = [name for name in part.keys() if name.startswith(prefixes)]  # noqa: SIM118
                    found |= {name: part.get_tensor(name) for name in names}
            except SafetensorError as error:
                raise ValueError(f"{file} is damaged: {errors.first_line(error):.300}") from error
    pattern = "|".join(map(re.escape, prefixes))
    return {re.sub(f"^(?:{pattern})", "", name): v for name, v in found.items() if name.startswith(prefixes)}
