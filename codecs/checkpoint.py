"""Find, read and write the checkpoint folders of codecs, decoders and models.

A checkpoint is `config.yaml` (or `config.json`, the hub's convention) and `model.safetensors`. The config holds plain
values and registry names. Nothing in a checkpoint is imported or called.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from tokenloom import checkpoints, errors, files, lazy
from tokenloom.checkpoints import RESEARCH_USE

from . import registry, storage
from .types import Modality

huggingface_hub = lazy.load("huggingface_hub", "hub")

KINDS = {"codec": "a codec", "omni": "a model for text, images and sound", "decoder": "a diffusion decoder"}
"""Section of a config → what the checkpoint is."""
CONFIGS = ("config.yaml", "config.json")
"""File names of a config in the order of preference: tokenloom's own, the hub's."""
WEIGHTS = "model.safetensors"
FILES = (*CONFIGS, WEIGHTS)
PATTERNS = tuple(name for file in FILES for name in (file, f"*/{file}"))
"""Files that are downloaded from a hub repository, including those of the codecs inside a model."""
HUB_ID = r"[\w.-]+/[\w.-]+"
CHECKSUM = "sha256"
"""Key of the checksum of the weights, see `storage.digest`, in the metadata of their file."""
MAX_CONFIG_BYTES = 2**24
MAX_VALUES, MAX_DEPTH, MAX_DIGITS = 2**13, 64, 100
"""Most values of a config in YAML, levels of nesting, and characters of a number. One value may be a long text."""
VARIABLE = "TOKENLOOM_WEIGHTS"
"""Environment variable with a folder of checkpoints, whose names are then used like those that ship."""


# -- find -----------------------------------------------------------------------------------------


def shipped_root() -> Path:
    """Return the folder of the checkpoints that come with the package."""
    return Path(str(checkpoints.__file__)).parent


def roots() -> list[Path]:
    """Return the folders of named checkpoints: `shipped_root`, and that of $TOKENLOOM_WEIGHTS if it is set.

    Raises:
        ValueError: If TOKENLOOM_WEIGHTS is not a folder.
    """
    if not (given := os.environ.get(VARIABLE)):
        return [shipped_root()]
    if not (own := Path(given).expanduser()).is_dir():
        raise ValueError(f"{VARIABLE} must be a folder of checkpoints, got {given}")
    return [shipped_root(), own]


def shipped(kind: str = "codec") -> list[str]:
    """Return the names of the checkpoints of one kind in `roots`: codec, decoder or omni. The kind is a config key."""
    folders = [path.parent for root in roots() for path in root.glob("*/config.yaml")]
    return sorted({folder.name for folder in folders if kind in read_config(folder)})


def shipped_folder(name: str) -> Path | None:
    """Return the folder of the checkpoint with this name in `roots`; None without one. No file is read."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        return None
    return next((root / name for root in roots() if holds_config(root / name)), None)


def is_portable(name: str) -> bool:
    """Return whether a name means the same checkpoint on every installation. One of $TOKENLOOM_WEIGHTS does not."""
    return name in RESEARCH_USE or holds_config(shipped_root() / name)


def holds_config(folder: Path) -> bool:
    """Return whether a folder holds the config of a checkpoint."""
    return any((folder / name).is_file() for name in CONFIGS)


def shipped_with(fingerprint: str, kind: str = "codec") -> str | None:
    """Return the name of the shipped codec with this fingerprint (hex), or of the codec's decoder; None without one."""
    for name in shipped(kind):
        config = read_config(shipped_folder(name) or Path(name))
        if (config.get("fingerprint") if kind == "codec" else config["fingerprints"]["codec"]) == fingerprint:
            return name
    return None


def find(source: str, *kinds: str) -> Path:
    """Return the folder of a checkpoint, downloading it if needed.

    A shipped name is found in any current directory: only a folder with both files of a checkpoint hides it.

    Args:
        source: A path, a shipped name, or a hub id.
        *kinds: Kinds that the error message lists; default: codec.

    Raises:
        FileNotFoundError: If the folder or the hub repository holds no checkpoint.
        ValueError: If `source` is not a path, a shipped name or a hub id.
    """
    path = Path(source)
    if path.name == WEIGHTS:
        path = path.parent
    ships = shipped_folder(source)
    if holds_config(path) and (ships is None or (path / WEIGHTS).is_file()):
        return path
    if ships is not None:
        return ships
    if path.is_dir():
        raise FileNotFoundError(f"the folder {source} must hold {' or '.join(CONFIGS)}, it holds neither")
    if re.fullmatch(HUB_ID, source) and source.split("/", maxsplit=1)[0] not in tuple(Modality):
        return download(source, PATTERNS)
    if "://" in source:
        shown = source[: errors.LISTED]
        raise ValueError(f"{shown} is an address; name a folder, a shipped name or a hub id (owner/name)")
    refuse_research(source)
    if path.suffix == ".py" and path.is_file():
        raise ValueError(f"a codec in a Python file is named with its class, {source}:CLASS")
    if path.is_file():
        raise ValueError(f"a codec or model is named by its folder, {source} is a file")
    what = "model" if kinds else "codec"
    known = [name for kind in kinds or ("codec",) for name in shipped(kind)]
    others = "a folder or a hub id is possible, too"
    if kinds:
        raise ValueError(errors.unknown(what, source, known, others))
    raise ValueError(errors.unknown(what, source, [*known, *registry.names()], f"tokenloom codecs lists all; {others}"))


def refuse_research(name: str) -> None:
    """Raise ValueError for the name of weights that no wheel holds."""
    if name in RESEARCH_USE:
        raise ValueError(
            f"{name} is for research use only and does not come with the package; set {VARIABLE} to a folder that "
            "holds it, such as checkpoints/ of a clone, or name a folder or a hub id"
        )


def describes(source: str, kind: str) -> bool:
    """Return whether `source` is a checkpoint of this kind. A registered name is not a checkpoint."""
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
        FileNotFoundError: If the hub or the network is out of reach, or the repository does not exist.
    """
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=[*patterns], **options))
    except errors.MissingPackage:
        raise
    except Exception as error:  # offline, missing, gated: dozens of types
        raise FileNotFoundError(
            f"{hub_id!r} is neither a folder ({Path(hub_id).absolute()}) nor a shipped name, and the hub has not given "
            f"it: {errors.first_line(error).removeprefix('Got: ')}"
        ) from error


# -- read -----------------------------------------------------------------------------------------


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former, in C, is in PyYAML's wheels


class _Loader(_SafeLoader):
    """YAML loader that refuses long numbers, which take minutes."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"a number must have at most {MAX_DIGITS} characters, got {len(node.value)}")
        return super().construct_object(node, deep)


def _yaml(text: str) -> Any:
    """Return the content of a YAML file. Aliases and many or deep values, which cost gigabytes, are refused first."""
    values = depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        values += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if values > MAX_VALUES or depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it must have at most {MAX_VALUES} values, nested at most {MAX_DEPTH} times")
    return yaml.load(text, _Loader)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a checkpoint folder. Raises the errors of `read_mapping`."""
    return read_mapping(next((folder / name for name in CONFIGS if (folder / name).is_file()), folder / CONFIGS[0]))


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the plain values of a YAML or JSON file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is too large or unreadable, or does not hold a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config at {path.absolute()}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"a config must have at most {MAX_CONFIG_BYTES} bytes, {path} has {path.stat().st_size}")
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except OSError:
        raise
    except Exception as error:  # YAML has its own type, and a dozen others for values that do not fit their tags
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"{path} cannot be read as {kind}: {errors.first_line(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(config).__name__}")
    return config


def section(folder: Path, config: dict[str, Any], kind: str, key: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the section `kind` of a config, which must have the entry `key`, and the fingerprints of its codecs.

    Raises:
        ValueError: If the section, its entry or the fingerprints are missing. A codec has no fingerprints of others.
    """
    given, fingerprints = config.get(kind), config.get("fingerprints")
    if kind == "codec":
        fingerprints = {}
    if not isinstance(given, dict) or key not in given or not isinstance(fingerprints, dict):
        needed = f"{kind}.{key}" if kind == "codec" else f"{kind}.{key} or fingerprints"
        held = next((noun for name, noun in KINDS.items() if name != kind and name in config), None)
        reason = f"it is {held}" if held else f"its config lacks {needed}"
        name = folder.name if folder.parent == shipped_root() else folder
        raise ValueError(f"{name} describes no {kind}: {reason}")
    for text in texts([given, fingerprints]):
        if len(text) > files.LONGEST and not text.lstrip().startswith("{"):  # the content of a tokenizer is longer
            raise ValueError(f"{folder}: a text must have at most {files.LONGEST} characters, got {text!r:.80}")
    return given, fingerprints


def texts(value: Any) -> Iterator[str]:
    """Yield the texts in nested lists and mappings, and the keys of the latter."""
    if isinstance(value, str):
        yield value
    for part in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from texts(part)


def weights(folder: Path, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, in float32 or int64.

    Args:
        folder: The folder.
        config: Its config. It holds the checksum of weights that were written before the file itself held one.

    Raises:
        FileNotFoundError: If the folder has no weights.
        ValueError: If the file is damaged, differs from its checksum, or holds NaN or infinity.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS}")
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        stated = metadata.get(CHECKSUM, config.get(CHECKSUM))
        if stated is not None and stated != (found := storage.digest(state)):
            raise ValueError(f"its values have the SHA-256 {found[:16]}…, not {str(stated)[:16]}…")
        wide = storage.widen(state)
        if bad := next((k for k, v in wide.items() if v.is_floating_point() and not v.isfinite().all()), None):
            raise ValueError(f"{bad} holds NaN or infinity")
        return wide
    except Exception as error:  # safetensors raises its own untyped error on damaged files
        raise ValueError(f"{path} is damaged: {errors.first_line(error)}") from error


def load_state(module: nn.Module, state: dict[str, torch.Tensor], source: str | Path) -> None:
    """Load a state dict strictly.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    own = module.state_dict()
    problems = [f"lacks {k}" for k in own if k not in state]
    problems += [f"has a stray {k}" for k in state if k not in own]
    problems += [
        f"{k} must be {tuple(v.shape)}, got {tuple(state[k].shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    if problems:
        raise ValueError(
            f"{source} holds another architecture than its config: {problems[0]} ({len(problems)} differences)"
        )
    module.load_state_dict(state)


def check_size(state: Mapping[str, torch.Tensor], needed: int) -> None:
    """Raise ValueError if a file holds fewer numbers than the architecture needs. Call this before allocating it."""
    if needed > (held := sum(math.prod(value.shape) for value in state.values())):
        raise ValueError(f"another architecture than its config: the file must hold {needed} numbers, it holds {held}")


def license_of(config: Mapping[str, Any]) -> str | None:
    """Return the license of the weights in a config, an SPDX expression on one line; None if it states none."""
    stated = config.get("license")
    return " ".join(stated.split())[:200] or None if isinstance(stated, str) else None


# -- write ----------------------------------------------------------------------------------------


def state(module: nn.Module, store: str) -> dict[str, torch.Tensor]:
    """Return a module's tensors in a storage type: float32, float16 or int8 (see storage.py)."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    return storage.narrow(tensors, store, dict(module.named_parameters()))


def write(
    folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor], config_file: str = CONFIGS[0], **extra: Any
) -> None:
    """Write the two files of a checkpoint.

    Both files are complete on disk before the first one is renamed, so an interruption leaves the old checkpoint. An
    interruption between the two renames leaves new weights next to the old config. That pair is valid if the
    architecture did not change.

    Args:
        folder: Created if needed.
        config: Plain values.
        state: Tensors in a storage type; see `state`.
        config_file: One of CONFIGS.
        **extra: Further plain values of the config.

    Raises:
        ValueError: If the folder has a config of the other name.
        OSError: If the files cannot be written.
    """
    if other := [name for name in CONFIGS if name != config_file and (folder / name).is_file()]:
        raise ValueError(f"{folder} holds a checkpoint with {other[0]}; write {config_file} to another folder")
    text = json.dumps(config | extra, indent=2, ensure_ascii=False)  # YAML writes aliases of shared objects
    if config_file.endswith(".yaml"):
        text = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True)
    contents = {WEIGHTS: _with_checksum(state), config_file: text.encode("utf-8")}
    files.write_together({folder / name: content for name, content in contents.items()})


def _with_checksum(state: dict[str, torch.Tensor]) -> bytes:
    """Return a safetensors file with the checksum of its values, the same bytes each time.

    safetensors itself would write several values of metadata in a random order.
    """
    data = to_bytes(state, {"format": "pt"})
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"][CHECKSUM] = storage.digest(state)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[start:]
