"""Other projects' checkpoints: found, opened without running anything that is in them, and put into our modules."""

from __future__ import annotations

import _compat_pickle
import contextlib
import importlib.util
import io
import json
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from . import checkpoint

INDEX = ".safetensors.index.json"
WEIGHTS = ("model.safetensors", f"model{INDEX}", "pytorch_model.bin")
"""What a folder of the hub holds weights in, the first that is there."""


class Inert:
    """Stands for an array or a function of a library that a checkpoint names: it holds nothing and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertMapping:
    """Stands for any other class: an ordered dictionary, the one object that `weights_only` lets both items and
    attributes be put into, which is what the configurations of training frameworks want."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict:
        return OrderedDict()


def locate(source: str | Path, *names: str) -> Path:
    """Where a checkpoint lies: an existing file, a folder's first file of these names, else a download from the hub.

    names  default: the names of weights on the hub
    Raises FileNotFoundError in one line that names the path looked for.
    """
    names = names or WEIGHTS
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if found := next((path / name for name in names if (path / name).is_file()), None):
            return found
        raise FileNotFoundError(f"{source} is a folder without {' or '.join(names)}")
    if re.fullmatch(checkpoint.HUB_ID, str(source)) and not path.suffix.removeprefix(".").isalpha():
        return locate(checkpoint.download(str(source), [*names, "config.json", "*.safetensors"]), *names)
    raise FileNotFoundError(f"no checkpoint at {path.absolute()}")


def read(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds at its top: safetensors, one part or several by their index, or a file of torch.save.

    Torch files are read with `weights_only`: classes they name beyond PyTorch's own become inert stand-ins, nothing of
    them is imported or called. ValueError in one line where the file is damaged or asks for more than it holds.
    """
    path = Path(path)
    try:
        if path.name.endswith(INDEX):
            return _parts(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return _torch(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # pickle, zip and safetensors have dozens of their own
        raise ValueError(f"{path} is no checkpoint that can be read: {_said(error)}") from error


def _said(error: Exception) -> str:
    """The line of an error that says what is the matter; PyTorch puts advice around it."""
    patterns = (r"WeightsUnpickler error:\s*(.+)", r"(Trying to load .+)", r"(.*)")
    return next(found[1] for pattern in patterns if (found := re.search(pattern, str(error))))[:300]


def _parts(index: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    if stray := [name for name in files if Path(name).name != name]:
        raise ValueError(f"its part {stray[0]!r} lies outside its folder")
    return {key: value for name in sorted(set(files)) for key, value in load_file(index.parent / name).items()}


def _torch(path: Path) -> dict[str, Any]:
    stubs = [(Inert if name.startswith(("numpy.", "functools.")) else InertMapping, name) for name in _strange(path)]
    with torch.serialization.safe_globals(stubs):
        found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, no dictionary")
    for name, value in _tensors(found):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"its tensor {name} claims {tuple(value.shape)}, which is more than it holds")
    return found


def _strange(path: Path) -> Iterator[str]:
    """Names of the classes in a file of torch.save that `weights_only` would refuse."""
    from torch._weights_only_unpickler import _get_allowed_globals

    known = {f"{module}.{name}" for module, name in _globals(_pickle(path))}
    return (name for name in sorted(known - set(_get_allowed_globals())))


def _pickle(path: Path) -> bytes:
    """The pickles of a file of torch.save: one in a zip archive, several one after the other in the older form."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        if archive.getinfo(name).file_size > checkpoint.MAX_CONFIG_BYTES:
            raise ValueError("its pickle is too large for a list of tensors")
        return archive.read(name)


def _globals(data: bytes) -> set[tuple[str, str]]:
    """The (module, name) of every class or function that the pickles at the start of `data` mention."""
    stream, found = io.BytesIO(data), set()
    with contextlib.suppress(ValueError):  # behind the last pickle of the older form come the numbers
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    module, name = argument.split(" ", 1)  # in Python 2's spelling, which PyTorch translates too
                    found.add(
                        _compat_pickle.NAME_MAPPING.get(
                            (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
                        )
                    )
    return found


def _tensors(found: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(found, Tensor):
        yield name, found
    elif isinstance(found, Mapping):
        for key, value in found.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(found, list | tuple):
        for key, value in enumerate(found):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


# -- state dicts ----------------------------------------------------------------------------------


def tensors(found: Mapping[str, Any], *keys: str) -> dict[str, Tensor]:
    """The state dict under the first of these keys, else at the top; ValueError where there are no tensors."""
    inner = next((found[key] for key in keys if isinstance(found.get(key), Mapping)), found)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"a checkpoint without tensors, neither under {', '.join(keys)} nor at its top")
    return state


def strip(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """A state dict without the names that begin like this."""
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight normalisation (Salimans and Kingma, arXiv 1602.07868, eq. 2) multiplied out, just as PyTorch does it.

    Both spellings, `weight_g`, `weight_v` and `parametrizations.weight.original0`, `…1`, become `weight`.
    """
    pairs = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))
    out = dict(state)
    for length, direction in pairs:
        for name in [name for name in state if name.endswith(length)]:
            stem = name.removesuffix(length)
            g, v = out.pop(name), out.pop(stem + direction)
            out[f"{stem}.weight"] = torch._weight_norm(v, g, 0)
    return out


def adopt(codec: Module, state: Mapping[str, Tensor], source: str | Path) -> Module:
    """Fill a codec with a foreign state dict whose names are already ours; it takes each number as float32 or int64.

    Strict, but for `counts`, which only our trainer knows. ValueError in one line where something is missing, left
    over or of another shape.
    """
    own = codec.state_dict()
    state = {k: v.to(own[k].dtype) if k in own else v for k, v in state.items()}
    checkpoint.fill(codec, {**{k: v for k, v in own.items() if k == "counts"}, **state}, source)
    return codec


def missing(package: str, extra: str) -> ValueError:
    """What is said where an optional package is not installed."""
    return ValueError(f"this needs {package}, which is not installed: pip install 'tokenloom[{extra}]'")


def of_transformers(name: str) -> Any:
    """A class of transformers, which one of our allow-lists names; ValueError where it is not installed or too old."""
    if importlib.util.find_spec("transformers") is None:
        raise missing("transformers", "hf")
    import transformers

    if not hasattr(transformers, name):
        raise ValueError(f"transformers {transformers.__version__} has no {name}; a newer one has")
    return getattr(transformers, name)


def sizes(state: Mapping[str, Tensor], names: Iterable[str]) -> list[tuple[int, ...]]:
    """Shapes of these tensors; ValueError for one that is not there."""
    if absent := [name for name in names if name not in state]:
        raise ValueError(f"the checkpoint lacks {absent[0]}")
    return [tuple(state[name].shape) for name in names]
