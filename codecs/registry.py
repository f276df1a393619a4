"""One registry: name → class, checkpoint → codec, container → codec."""

from __future__ import annotations

import inspect
import json
import os
import re
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from . import storage
from .base import BitstreamError, Codec, LatentCodec, Modality

ENTRY_POINTS = "tokenloom.codecs"
CONFIGS = ("config.yaml", "config.json")
"""What describes a checkpoint, the first that is there: ours, and the one by the hub's convention."""
FILES = (*CONFIGS, "model.safetensors")
PATTERNS = tuple(name for file in FILES for name in (file, f"*/{file}"))
"""What is downloaded of a repository of ours: its own files, and those of the codecs beside a model."""
HUB_ID = r"[\w.-]+/[\w.-]+"
MAX_CONFIG_BYTES = 2**24

_classes: dict[str, type[Codec]] = {}
_loaded: weakref.WeakValueDictionary[bytes, Codec] = weakref.WeakValueDictionary()
_pending_entry_points = True


def register(name: str) -> Callable[[type[Codec]], type[Codec]]:
    """Class decorator: make a codec known as `name`, "modality/kind" (`image/fsq`)."""
    if not re.fullmatch(r"(text|image|audio)/[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(f"{name!r} is no codec name; wanted modality/kind, such as 'image/fsq'")

    def add(cls: type[Codec]) -> type[Codec]:
        known = _classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"codec {name!r} is already registered by {known.__module__}.{known.__qualname__}")
        cls.name = name
        _classes[name] = cls
        return cls

    return add


def _registry() -> dict[str, type[Codec]]:
    """All classes, those of installed third-party packages included."""
    global _pending_entry_points
    if _pending_entry_points:
        _pending_entry_points = False
        for point in entry_points(group=ENTRY_POINTS):
            try:
                loaded = point.load()
            except Exception as error:  # somebody else's package: it must not take the other codecs away
                warnings.warn(f"codec {point.name} of {point.value} is left out: {error!r}", stacklevel=2)
                continue
            if isinstance(loaded, type) and issubclass(loaded, Codec) and loaded not in _classes.values():
                register(point.name)(loaded)
    return _classes


def names(modality: Modality | str | None = None) -> list[str]:
    """Registered names, sorted; of one modality if given."""
    prefix = "" if modality is None else f"{Modality(modality)}/"
    return sorted(name for name in _registry() if name.startswith(prefix))


def codec_class(name: str) -> type[Codec]:
    """The class registered as `name`; ValueError with the known names otherwise."""
    if name not in _registry():
        raise ValueError(f"unknown codec {name!r}; registered are {', '.join(names())}")
    return _classes[name]


def build(name: str, *, checkpoint: str | Path | None = None, **kwargs: Any) -> Codec:
    """A fresh codec: untrained where it trains, ready to use where it does not.

    checkpoint  weights of another project, a path or a hub id, for codecs that read them; `kwargs` are then what the
                file does not say itself. The codec's config is its architecture alone: `codecs.save` makes of it a
                checkpoint that needs the file no more.
    """
    cls = codec_class(name)
    allowed = arguments(cls) if checkpoint is None else import_arguments(cls)
    if unknown := sorted(set(kwargs) - allowed):
        raise ValueError(f"{name} takes no {unknown[0]!r}; it takes {', '.join(sorted(allowed)) or 'no arguments'}")
    try:
        if checkpoint is not None:
            codec = cls.imported(str(checkpoint), **kwargs)
            _loaded[codec.fingerprint] = codec
        else:
            codec = cls(**kwargs)
            codec.config = json.loads(json.dumps(kwargs))  # plain values only: what a config file can hold
    except (TypeError, RuntimeError, MemoryError, OverflowError) as error:  # wrong types, missing or absurd values
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name} cannot be built from {kwargs!r:.200}: {reason}") from error
    return codec.eval()


def arguments(cls: type[Codec]) -> set[str]:
    """Names a codec's constructor takes, those it hands on to its base class included."""
    taken: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        named, more = _parameters(base.__init__)
        taken |= named
        if not more:
            break
    return taken - {"self", "quantizer"}


def _parameters(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """Names of a function's parameters, and whether it takes others besides."""
    parameters = inspect.signature(function).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def shipped(kind: str = "codec") -> list[str]:
    """Names of the trained codecs that come with the package; or of the checkpoints whose config has another key."""
    root = shipped_root()
    return sorted(p.parent.name for p in root.glob("*/config.yaml") if kind in read_config(p.parent))


def load(source: str | Path | Mapping[str, Any]) -> Codec:
    """A trained codec in eval mode from a folder, else a shipped name, else a hub id.

    The checkpoint is `config.yaml`, or `config.json` (a registry name and plain values), and `model.safetensors`;
    nothing else is read and nothing in it is run. A folder or hub id of a model of transformers that is a tokenizer of
    sounds or images gives that one. A registered name of a codec that needs no training (`image/jpeg`) gives that
    codec, and a mapping ({name: image/taming, checkpoint: last.ckpt}) what `build` makes of it.
    Raises ValueError or FileNotFoundError.
    """
    if isinstance(source, Mapping):
        arguments = {str(key): value for key, value in source.items()}
        if not isinstance(name := arguments.pop("name", None), str):
            raise ValueError(f"{dict(source)!r:.200} names no codec; wanted {{name: …, checkpoint: …}}")
        if arguments.get("checkpoint") is None:
            _refuse_weightless(codec_class(name))
        return build(name, **arguments)
    source = str(source)
    if source in _registry():
        _refuse_weightless(cls := _classes[source])
        if issubclass(cls, LatentCodec):
            raise ValueError(f"{source} has to be trained first; trained ones that ship: {', '.join(shipped())}")
        return build(source)
    folder = find_checkpoint(source)
    config = read_config(folder)
    if "codec" not in config and (cls := _wrapper(config.get("model_type"))):
        return build(cls.name, checkpoint=folder if Path(source).exists() else source)
    return _load_folder(folder)


def imports(cls: type[Codec]) -> bool:
    """Whether a codec reads checkpoints of other projects."""
    return cls.imported.__func__ is not Codec.imported.__func__


def import_arguments(cls: type[Codec]) -> set[str]:
    """Names of what a codec is told beside another project's checkpoint."""
    return _parameters(cls.imported)[0] - {"checkpoint"}


def _refuse_weightless(cls: type[Codec]) -> None:
    """ValueError for a codec of another project's, whose weights would be random ones."""
    if imports(cls):
        raise ValueError(
            f"{cls.name} needs another project's weights: codecs.build({cls.name!r}, checkpoint=…), "
            f"or {{name: {cls.name}, checkpoint: …}} in a list of codecs; saved once, its folder stands for it"
        )


def _wrapper(model_type: Any) -> type[Codec] | None:
    """The codec behind which models of this type of transformers stand."""
    return next((cls for cls in _registry().values() if model_type in cls.model_types), None)


def find_checkpoint(source: str, *kinds: str) -> Path:
    """The folder of a checkpoint: a path, else a shipped name, else a download from the hub.

    kinds  keys of its config (default: codec), for what is said where there is none
    """
    path = Path(source)
    if path.name == "model.safetensors":
        path = path.parent
    if any((path / name).is_file() for name in CONFIGS):
        return path
    if path.is_dir():
        raise FileNotFoundError(f"{source} is a folder without a checkpoint: no {' or '.join(CONFIGS)} in it")
    if re.fullmatch(r"[A-Za-z0-9_.-]+", source) and (shipped_root() / source / "config.yaml").is_file():
        return shipped_root() / source
    if re.fullmatch(HUB_ID, source) and source.split("/", maxsplit=1)[0] not in tuple(Modality):
        return download(source, PATTERNS)
    what = "model" if kinds else "codec"
    registered = "" if kinds else f", no registered name ({', '.join(names())})"
    ships = ", ".join(name for kind in kinds or ("codec",) for name in shipped(kind))
    raise ValueError(f"unknown {what} {source!r}: no folder, no shipped name ({ships}){registered} and no hub id")


def describes(source: str, kind: str) -> bool:
    """Whether a checkpoint's config has this key; False where there is none, or a registered name."""
    if source in names():
        return False
    try:
        return kind in read_config(find_checkpoint(source))
    except (ValueError, OSError):
        return False


def save(
    codec: Codec, folder: str | Path, *, store: str = "float32", config_file: str = CONFIGS[0], **extra: Any
) -> None:
    """Write `model.safetensors` and `config.yaml`; OSError where they cannot be written.

    store        float32, float16 or int8 (see storage.py)
    config_file  one of CONFIGS
    extra        plain values for the config, such as `trained={…}`
    """
    folder = Path(folder)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in codec.state_dict().items()}
    state = storage.stored(state, store, dict(codec.named_parameters()))
    clone = build(codec.name, **codec.config)
    fill(clone, storage.restored(state), folder)
    config = {"codec": {"name": codec.name, **codec.config}, "fingerprint": clone.fingerprint.hex(), **extra}
    write(folder, config, state, config_file)


def write(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor], config_file: str = CONFIGS[0]) -> None:
    """A checkpoint's two files; OSError where they cannot be written, ValueError where another config is in the way.

    Both are complete on disk before the first takes its place, so that a full disk or a kill leaves what was there.
    A kill between the two renames leaves new weights beside the old config, which describes them as well
    unless the folder held another architecture.
    """
    import yaml
    from safetensors.torch import save as to_bytes

    if other := [name for name in CONFIGS if name != config_file and (folder / name).is_file()]:
        raise ValueError(f"{folder} holds a checkpoint with {other[0]}; write the one with {config_file} elsewhere")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, ensure_ascii=False)  # plain, and nothing shared: YAML would write an alias
    if config_file.endswith(".yaml"):
        text = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True)
    parts = {"model.safetensors": to_bytes(state, {"format": "pt"}), config_file: text.encode("utf-8")}
    try:
        for name, content in parts.items():
            with (folder / f"{name}.part").open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name in parts:
            (folder / f"{name}.part").replace(folder / name)
    except OSError as error:
        for name in parts:
            (folder / f"{name}.part").unlink(missing_ok=True)
        raise OSError(
            f"the checkpoint could not be written to {folder}: {error.strerror}; what was there is whole"
        ) from error


def _load_folder(folder: Path) -> Codec:
    from safetensors.torch import load_file

    config = read_config(folder)
    if not isinstance(config.get("codec"), dict) or not isinstance(config["codec"].get("name"), str):
        raise ValueError(f"{folder} describes no codec: its config lacks codec.name")
    arguments = {str(key): value for key, value in config["codec"].items()}
    codec = build(arguments.pop("name"), **arguments)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{folder} holds no model.safetensors")
    try:
        state = storage.restored(load_file(weights))
    except Exception as error:  # safetensors raises its own untyped error on damaged files
        raise ValueError(f"{weights} is damaged: {str(error).splitlines()[0]}") from error
    fill(codec, state, folder)
    _loaded[codec.fingerprint] = codec
    return codec.eval()


def fill(codec: Codec, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Strict loading whose complaint is one line."""
    wanted = codec.state_dict()
    problems = [f"lacks {k}" for k in wanted if k not in state]
    problems += [f"has a stray {k}" for k in state if k not in wanted]
    problems += [
        f"{k} is {tuple(state[k].shape)}, wanted {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    if problems:
        raise ValueError(
            f"{folder} holds another architecture than its config: {problems[0]} ({len(problems)} differences)"
        )
    codec.load_state_dict(state)


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a checkpoint, ours or by the hub's convention."""
    return read_mapping(next((folder / name for name in CONFIGS if (folder / name).is_file()), folder / CONFIGS[0]))


def read_mapping(path: Path) -> dict[str, Any]:
    """What a file of YAML or JSON holds: plain values. FileNotFoundError, or ValueError in one line."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Without aliases: a few lines of them stand for gigabytes."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not taken")
            return super().compose_node(parent, index)

    if not path.is_file():
        raise FileNotFoundError(f"no config at {path.absolute()}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a config has at most {MAX_CONFIG_BYTES}")
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or no such date
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"{path} is not readable as {kind}: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no mapping")
    return config


def shipped_root() -> Path:
    return Path(import_module("tokenloom.checkpoints").__file__).parent


def download(hub_id: str, patterns: Sequence[str], **options: Any) -> Path:
    """The folder of a hub repository's files of these names, from the network or from what was downloaded before.

    options  revision, token, cache_dir and the like, as `huggingface_hub.snapshot_download` takes them
    Raises FileNotFoundError in one line, offline too.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=[*patterns], **options))
    except Exception as error:  # offline, missing or gated: dozens of types, one meaning
        raise FileNotFoundError(
            f"{hub_id!r} is no folder ({Path(hub_id).absolute()}) and nothing that ships, and the hub gave nothing: "
            f"{str(error).splitlines()[0]}"
        ) from error


def find(fingerprint: bytes) -> Codec:
    """The codec with this fingerprint, among those loaded, those without weights, those shipped."""
    if (codec := _loaded.get(fingerprint)) is not None and codec.fingerprint == fingerprint:
        return codec
    for name in names():
        for arguments in _classes[name].variants:
            try:
                codec = build(name, **arguments)
            except ValueError:  # it has no default, so it is none that could have been meant
                continue
            if codec.fingerprint == fingerprint:
                return codec
    for name in shipped():
        if read_config(shipped_root() / name).get("fingerprint") == fingerprint.hex():
            codec = load(name)
            if codec.fingerprint == fingerprint:
                return codec
    raise BitstreamError(
        f"no codec here has the fingerprint {fingerprint.hex()}; load the one that wrote this first "
        f"(codecs.load), shipped are {', '.join(shipped())}"
    )
