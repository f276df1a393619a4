"""Read files of torch.save without importing or calling the classes and functions that they name."""

from __future__ import annotations

import _compat_pickle
import contextlib
import io
import pickletools
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._weights_only_unpickler import _get_allowed_globals

from .. import checkpoint

_lock = threading.Lock()
"""Held while PyTorch's list of safe classes, which all threads share, has the stand-ins of one file."""


class Inert:
    """Stand-in for an array or function of another library. It has no state and no behavior."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertMapping:
    """Stand-in for other classes: an ordered dictionary.

    It is the only type for which `weights_only` accepts items and attributes. Configurations that training frameworks
    store have both.
    """

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict:
        return OrderedDict()


def read(path: Path) -> dict[str, Any]:
    """Return the dictionary in a file of torch.save.

    Raises:
        ValueError: If the file does not hold a dictionary, or a tensor's shape exceeds its storage. PyTorch and pickle
            raise other types on damaged files.
    """
    with _lock:
        stubs = [
            (Inert if name.startswith(("numpy.", "functools.")) else InertMapping, name) for name in _unknown(path)
        ]
        with torch.serialization.safe_globals(stubs):
            content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it must hold a dictionary, got {type(content).__name__}")
    for name, value in _tensors(content):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"its tensor {name} claims the shape {tuple(value.shape)}, which is more than it holds")
    return content


def _unknown(path: Path) -> list[str]:
    """Return the names of the classes in a file that `weights_only` refuses."""
    mentioned = {f"{module}.{name}" for module, name in _globals(_pickle(path))}
    return sorted(mentioned - set(_get_allowed_globals()))


def _pickle(path: Path) -> bytes:
    """Return the pickles of a file. A zip archive has one; the older format has several in sequence."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its parts must be stored, as torch.save stores them, not compressed")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its parts claim more bytes than it holds")
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        if archive.getinfo(name).file_size > checkpoint.MAX_CONFIG_BYTES:
            raise ValueError("its pickle is too large for a list of tensors")
        return archive.read(name)


def _globals(data: bytes) -> set[tuple[str, str]]:
    """Return (module, name) of every class or function that the pickles at the start of `data` mention."""
    stream, found = io.BytesIO(data), set()
    with contextlib.suppress(ValueError):  # in the older format, raw numbers follow the last pickle
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    module, name = argument.split(" ", 1)  # in Python 2's spelling, which PyTorch translates too
                    renamed = (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
                    found.add(_compat_pickle.NAME_MAPPING.get((module, name), renamed))
    return found


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the dotted names and tensors of nested mappings and lists."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping | list | tuple):
        pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in pairs:
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
