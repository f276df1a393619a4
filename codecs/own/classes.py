"""Codec classes in Python files of the user, named by file and class: `my_codec.py:MyCodec`.

`named` runs the file, since the user has named it. `known` finds the class of a file that has run in this process, and
runs nothing: names in checkpoints and in the records of a run come to it.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from tokenloom import errors, own_code

from ..types import CodecInterface

BASES = ("tokenloom.codecs.types", "tokenloom.codecs.layers.tracing", "tokenloom.codecs.codec")
"""Modules of the base classes, whose methods only say what a codec must implement, or call it."""
FORM = re.compile(r"(?P<file>.+\.py):(?P<cls>[A-Za-z_]\w*)", re.DOTALL)


def is_reference(name: object) -> TypeGuard[str]:
    """Return whether a name has the form FILE.py:CLASS."""
    return isinstance(name, str) and FORM.fullmatch(name) is not None


def portable(name: str) -> str:
    """Return FILE.py:CLASS without the folder of the file, as checkpoints hold it."""
    file, cls = _parts(name)
    return f"{file.name}:{cls}"


def named(reference: str) -> Any:
    """Run the file of FILE.py:CLASS, unless it has run with its present content, and return the class.

    A name without a folder also means a file elsewhere that has run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file fails, or has no such codec class.
    """
    path, name = _parts(reference)
    path = path.expanduser()
    if not path.is_file():
        if path.name == str(path) and own_code.loaded(path.name) is not None:
            return known(reference)
        raise FileNotFoundError(f"{reference}: there is no file {path}")
    return _class(own_code.module(path), path.name, name)


def known(reference: str) -> Any:
    """Return the class FILE.py:CLASS of a file that has run in this process. No code runs.

    Raises:
        ValueError: If no such file has run, or it has no such codec class.
    """
    path, name = _parts(reference)
    module = own_code.loaded(path.name) if path.name == str(path) else None
    if module is None:
        raise ValueError(f"{reference} is in a Python file that was not imported: add import={path}")
    return _class(module, path.name, name)


def file_of(cls: type) -> str:
    """Return the path of the user's file that defines a class."""
    return str(Path(inspect.getfile(cls)).resolve())


def _parts(reference: str) -> tuple[Path, str]:
    found = FORM.fullmatch(reference)
    assert found is not None  # callers ask `is_reference` first
    return Path(found["file"]), found["cls"]


def _class(module: ModuleType, file: str, name: str) -> Any:
    """Return the codec class `name` of a module."""
    if (cls := vars(module).get(name)) is None:
        raise ValueError(errors.unknown(f"class of {file}", name, _codecs(module)))
    reference = f"{file}:{name}"
    if not (isinstance(cls, type) and issubclass(cls, CodecInterface)):
        held = errors.listed(_codecs(module)) or "no codec"
        raise ValueError(f"{reference} must be a subclass of tokenloom.codecs.Codec; {file} has {held}")
    if cls.__module__ != module.__name__:
        raise ValueError(f"{reference} must be defined in {file}, which imports it from {cls.__module__}")
    if missing := _missing(cls):
        raise ValueError(f"{reference} is abstract: it must implement {' and '.join(missing)}")
    return cls


def _missing(cls: Any) -> list[str]:
    """Return the methods that a codec class must implement and does not."""
    latent = hasattr(cls, "analyze")
    ways = (
        [("analyze", "encode_indices", "_encode", "encode"), ("synthesize", "decode_indices", "_decode", "decode")]
        if latent else [("_encode", "encode"), ("_decode", "decode")]
    )  # fmt: skip
    absent = [names[0] for names in ways if not any(_implements(cls, name) for name in names)]
    return sorted({*absent, *cls.__abstractmethods__})


def _implements(cls: type, method: str) -> bool:
    """Return whether a method is that of a class outside the core."""
    owner = next((base for base in cls.__mro__ if method in vars(base)), None)
    return owner is not None and owner.__module__ not in BASES


def _codecs(module: ModuleType) -> list[str]:
    """Return the names of the codec classes that a module defines."""
    classes = ((name, value) for name, value in vars(module).items() if isinstance(value, type))
    return [
        name for name, cls in classes
        if issubclass(cls, CodecInterface) and cls.__module__ == module.__name__ and not _missing(cls)
    ]  # fmt: skip
