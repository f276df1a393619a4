"""The one registry: name → class, and fingerprint → loaded codec."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from tokenloom.registry import Registry

from .own import classes
from .own.classes import is_reference
from .types import CodecInterface, Modality

ENTRY_POINTS = "tokenloom.codecs"

NAME = r"(text|image|audio)/[a-z0-9][a-z0-9_-]*"
"""Form of a registered name."""

_classes: Registry[Any] = Registry("codec", pattern=NAME, form="modality/kind, such as 'image/fsq'")
_loaded: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()
_pending_entry_points = True
register = _classes.register


def _registered() -> Registry[Any]:
    """Return all classes, those of installed third-party packages included."""
    global _pending_entry_points
    if _pending_entry_points:
        _pending_entry_points = False
        for point in entry_points(group=ENTRY_POINTS):
            try:
                loaded = point.load()
            except Exception as error:  # a broken third-party package must not disable the other codecs
                warnings.warn(f"codec {point.name} of {point.value} is left out: {error!r}", stacklevel=2)
                continue
            if isinstance(loaded, type) and issubclass(loaded, CodecInterface) and loaded not in _classes.values():
                register(point.name)(loaded)
    return _classes


def names(modality: Modality | str | None = None) -> list[str]:
    """Return the registered names, sorted; of one modality if it is given."""
    prefix = "" if modality is None else f"{Modality(modality)}/"
    return sorted(name for name in _registered() if name.startswith(prefix))


def codec_class(name: str) -> Any:
    """Return the class registered as `name`, or the class my_codec.py:MyCodec of a file that has run. No file runs.

    Raises:
        ValueError: If the name is unknown. The message has the nearest registered names.
    """
    return _settled(classes.known(name), name) if is_reference(name) else _registered()[name]


def resolve(name: str) -> str:
    """Return the name that `codec_class` knows for a name of the user. Run the file of FOLDER/my_codec.py:MyCodec.

    A class that the file registers has its registered name, another one has that of file and class. Other names are
    returned unchanged.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file fails, or has no such codec class.
    """
    if not is_reference(name):
        return name
    cls = _settled(classes.named(name), name)
    return classes.portable(name) if is_reference(cls.name) else cls.name


def _settled(cls: Any, reference: str) -> Any:
    """Return a class of the user's file with the name of file and class, unless it has a registered one."""
    given = vars(cls).get("name")  # not that of a base class
    if _registered().get(given) is not cls and not is_reference(given):
        cls.name = classes.portable(reference)
    return cls


def wrapper(model_type: Any) -> Any | None:
    """Return the codec class that wraps transformers models of this type, or None."""
    return next((cls for cls in _registered().values() if model_type in cls.model_types), None)


def remember(codec: CodecInterface) -> None:
    """Make a loaded codec available by its fingerprint, as a weak reference."""
    _loaded[codec.fingerprint] = codec


def recall(fingerprint: bytes) -> Any | None:
    """Return the loaded codec with this fingerprint, or None."""
    codec = _loaded.get(fingerprint)
    return codec if codec is not None and codec.fingerprint == fingerprint else None


# -- signatures -----------------------------------------------------------------------------------


def arguments(cls: type) -> set[str]:
    """Return the names of a codec's constructor arguments, those of its base classes included."""
    taken: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        named, more = _parameters(base.__init__)
        taken |= named
        if not more:
            break
    return taken - {"self", "quantizer"}


def imports(cls: type) -> bool:
    """Return whether a codec class reads checkpoints of other projects: it has an `imported` of its own."""
    return any("imported" in vars(base) for base in cls.__mro__ if base.__module__ != f"{__package__}.codec")


def import_arguments(cls: Any) -> set[str]:
    """Return the names of the arguments of `imported` besides the checkpoint."""
    return _parameters(cls.imported)[0] - {"checkpoint"}


def _parameters(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """Return the names of a function's parameters, and whether it takes more keyword arguments."""
    parameters = inspect.signature(function).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)
