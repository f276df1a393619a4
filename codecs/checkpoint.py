"""Checkpoint folders: find, read and write them. Codecs, decoders and models all use this module.

A checkpoint is `config.yaml` (or `config.json`, the hub's convention) and `model.safetensors`. The config holds plain
values and registry names. Nothing in a checkpoint is imported or called.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from tokenloom import errors, files, lazy

from . import registry, storage
from .types import Modality

huggingface_hub = lazy.load("huggingface_hub")

CONFIGS = ("config.yaml", "config.json")
"""Names of a config, in the order of preference: tokenloom's own and the hub's."""
WEIGHTS = "model.safetensors"
FILES = (*CONFIGS, WEIGHTS)
PATTERNS = tuple(name for file in FILES for name in (file, f"*/{file}"))
"""Files that are downloaded from a hub repository: its own, and those of the codecs inside a model."""
HUB_ID = r"[\w.-]+/[\w.-]+"
MAX_CONFIG_BYTES = 2**24


# -- find -----------------------------------------------------------------------------------------


def shipped_root() -> Path:
    """Return the folder of the checkpoints that come with the package."""
    return Path(str(import_module("tokenloom.checkpoints").__file__)).parent


def shipped(kind: str = "codec") -> list[str]:
    """Return the names of the shipped checkpoints whose config has this key: codec, decoder or omni."""
    root = shipped_root()
    return sorted(p.parent.name for p in root.glob("*/config.yaml") if kind in read_config(p.parent))


def ships(name: str) -> bool:
    """Return whether a shipped checkpoint has this name, without reading any."""
    return bool(re.fullmatch(r"[A-Za-z0-9_.-]+", name)) and (shipped_root() / name / CONFIGS[0]).is_file()


def shipped_with(fingerprint: str, kind: str = "codec") -> str | None:
    """Return the name of the shipped codec with this fingerprint (hex), or None.

    With kind="decoder", return the decoder of the codec with this fingerprint.
    """
    for name in shipped(kind):
        config = read_config(shipped_root() / name)
        if (config.get("fingerprint") if kind == "codec" else config["fingerprints"]["codec"]) == fingerprint:
            return name
    return None


def find(source: str, *kinds: str) -> Path:
    """Return the folder of a checkpoint, downloading it if needed.

    Args:
        source: A path, a shipped name, or a hub id.
        *kinds: Config keys that the caller accepts, for the error message; default: codec.

    Raises:
        FileNotFoundError: If the folder holds no checkpoint, or the hub has none.
        ValueError: If `source` is none of the above.
    """
    path = Path(source)
    if path.name == WEIGHTS:
        path = path.parent
    if any((path / name).is_file() for name in CONFIGS):
        return path
    if path.is_dir():
        raise FileNotFoundError(f"{source} is a folder without a checkpoint: no {' or '.join(CONFIGS)} in it")
    if ships(source):
        return shipped_root() / source
    if re.fullmatch(HUB_ID, source) and source.split("/", maxsplit=1)[0] not in tuple(Modality):
        return download(source, PATTERNS)
    what = "model" if kinds else "codec"
    registered = "" if kinds else f", no registered name ({', '.join(registry.names())})"
    known = ", ".join(name for kind in kinds or ("codec",) for name in shipped(kind))
    raise ValueError(f"unknown {what} {source!r}: no folder, no shipped name ({known}){registered} and no hub id")


def describes(source: str, kind: str) -> bool:
    """Return whether `source` is a checkpoint whose config has this key. A registered name is none."""
    if source in registry.names():
        return False
    try:
        return kind in read_config(find(source))
    except (ValueError, OSError):
        return False


def download(hub_id: str, patterns: Sequence[str], **options: Any) -> Path:
    """Return the local folder of a hub repository, from the network or the local cache.

    Args:
        hub_id: "owner/name".
        patterns: Names of the files to download.
        **options: Options of `huggingface_hub.snapshot_download`: revision, token, cache_dir and so on.

    Raises:
        FileNotFoundError: If nothing was found, or the network is out of reach.
    """
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=[*patterns], **options))
    except Exception as error:  # offline, missing or gated: dozens of types, one meaning
        raise FileNotFoundError(
            f"{hub_id!r} is no folder ({Path(hub_id).absolute()}) and no shipped name, and the hub did not provide it: "
            f"{errors.first_line(error)}"
        ) from error


# -- read -----------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a checkpoint folder. Raises as `read_mapping` does."""
    return read_mapping(next((folder / name for name in CONFIGS if (folder / name).is_file()), folder / CONFIGS[0]))


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the plain values of a YAML or JSON file.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is too large, unreadable, or holds no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config at {path.absolute()}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"a config must have at most {MAX_CONFIG_BYTES} bytes, {path} has {path.stat().st_size}")
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or no such date
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"{path} is not readable as {kind}: {errors.first_line(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no mapping")
    return config


def described(folder: Path, config: dict[str, Any], kind: str, key: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a config says under `kind`, which must have the entry `key`, and its fingerprints.

    Raises:
        ValueError: If either is missing. Codecs have one fingerprint and need none.
    """
    given, fingerprints = config.get(kind), config.get("fingerprints")
    if kind == "codec":
        fingerprints = {}
    if not isinstance(given, dict) or key not in given or not isinstance(fingerprints, dict):
        needed = f"{kind}.{key}" if kind == "codec" else f"{kind}.{key} or fingerprints"
        raise ValueError(f"{folder} describes no {kind}: its config lacks {needed}")
    return given, fingerprints


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, in float32 or int64.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If the file is damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS}")
    try:
        return storage.widen(load_file(path))
    except Exception as error:  # safetensors raises its own untyped error on damaged files
        raise ValueError(f"{path} is damaged: {errors.first_line(error)}") from error


def fill(module: nn.Module, state: dict[str, torch.Tensor], source: str | Path) -> None:
    """Load a state dict strictly.

    Raises:
        ValueError: If a tensor is missing, left over or of another shape.
    """
    wanted = module.state_dict()
    problems = [f"lacks {k}" for k in wanted if k not in state]
    problems += [f"has a stray {k}" for k in state if k not in wanted]
    problems += [
        f"{k} is {tuple(state[k].shape)}, wanted {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    if problems:
        raise ValueError(
            f"{source} holds another architecture than its config: {problems[0]} ({len(problems)} differences)"
        )
    module.load_state_dict(state)


def check_size(state: dict[str, torch.Tensor], needed: int) -> None:
    """Raise ValueError if a file holds fewer numbers than the architecture needs, before that is allocated."""
    if needed > (held := sum(math.prod(value.shape) for value in state.values())):
        raise ValueError(f"another architecture than its config: {held} numbers in the file, at least {needed} needed")


# -- write ----------------------------------------------------------------------------------------


def state(module: nn.Module, store: str) -> dict[str, torch.Tensor]:
    """Return a module's tensors as they are stored: float32, float16 or int8 (see storage.py)."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    return storage.narrow(tensors, store, dict(module.named_parameters()))


def write(
    folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor], config_file: str = CONFIGS[0], **extra: Any
) -> None:
    """Write the two files of a checkpoint.

    Both are complete on disk before the first one is renamed, so a full disk or a kill leaves the old checkpoint. A
    kill between the two renames leaves new weights next to the old config; that pair is valid unless the folder held
    another architecture.

    Args:
        folder: Created if needed.
        config: Plain values.
        state: Tensors, as `state` returns them.
        config_file: One of CONFIGS.
        **extra: Plain values that are added to the config.

    Raises:
        ValueError: If the folder has a config of the other name.
        OSError: If the files cannot be written.
    """
    if other := [name for name in CONFIGS if name != config_file and (folder / name).is_file()]:
        raise ValueError(f"{folder} holds a checkpoint with {other[0]}; write the one with {config_file} elsewhere")
    text = json.dumps(config | extra, indent=2, ensure_ascii=False)  # plain, nothing shared: YAML would write an alias
    if config_file.endswith(".yaml"):
        text = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True)
    contents = {WEIGHTS: to_bytes(state, {"format": "pt"}), config_file: text.encode("utf-8")}
    try:
        files.write_together({folder / name: content for name, content in contents.items()})
    except OSError as error:
        raise OSError(
            f"the checkpoint could not be written to {folder}: {error.strerror}; the old one is unchanged"
        ) from error
