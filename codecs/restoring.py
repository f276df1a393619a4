"""What configs of codecs may hold: plain values, and an architecture of as many numbers as its weights have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tokenloom import devices, own_code

from . import checkpoint, registry
from .types import CodecInterface

REQUESTS = ("checkpoint", "device")
"""Arguments of `codecs.build` that open files or the hub, or choose a device."""
UNFIT = (TypeError, RuntimeError, MemoryError, ArithmeticError, LookupError, AttributeError)
"""Errors of a constructor for wrong types, missing or absurd values, besides ValueError."""


def arguments(folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the registered name and the constructor's arguments in the config of a codec's checkpoint.

    Raises:
        ValueError: If they are missing, are requests instead of plain values, or need a file that was never imported.
    """
    section, _ = checkpoint.section(folder, config, "codec", "name")
    given = {str(key): value for key, value in section.items()}
    if not isinstance(name := given.pop("name"), str):
        raise ValueError(f"{folder}: codec.name must be a registered name, got {name!r:.80}")
    own_code.recall(config.get("imports"), folder, known=name in registry.names())
    if found := [key for key in REQUESTS if key in given]:
        raise ValueError(f"{folder}: codec must hold the architecture as plain values, not a {found[0]}")
    for key in registry.codec_class(name).paths:
        if key in given and not str(given[key]).lstrip().startswith("{"):
            raise ValueError(f"{folder}: codec.{key} must be the content of a file as JSON, got {given[key]!r:.80}")
    return name, given


def check_size(folder: Path, name: str, state: Mapping[str, Tensor], build: Callable[[], nn.Module]) -> None:
    """Raise ValueError if a codec needs more numbers than its checkpoint holds. None of them is allocated.

    Codecs of transformers check their own configs, and those of other packages may need values while they are built.
    """
    cls = registry.codec_class(name)
    if cls.__module__.partition(".")[0] == "tokenloom" and not cls.model_types:
        with devices.without_weights():
            needed = sum(value.numel() for value in build().state_dict().values())
        try:
            checkpoint.check_size(state, needed)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error


def request(source: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the other keys of a codec's mapping, {name: …, …}. Raises ValueError without a name."""
    given = {str(key): value for key, value in source.items()}
    if not isinstance(name := given.pop("name", None), str):
        raise ValueError(f"a codec mapping must be {{name: …, checkpoint: …}}, got {dict(source)!r:.200}")
    return name, given


def label(source: str | Path | Mapping[str, Any]) -> str:
    """Return the name of a codec for tables and messages.

    A mapping has its name and the file of its weights, as in `image/taming (last.ckpt)`, or else its arguments, as in
    `my_codec.py:MyCodec width=64`.
    """
    if not isinstance(source, Mapping):
        return str(source)
    given = {str(key): value for key, value in source.items()}
    name, weights = given.pop("name", "?"), given.pop("checkpoint", None)
    if weights is not None:
        return f"{name} ({Path(str(weights)).name})"
    return " ".join([str(name), *(f"{key}={str(value).replace(' ', '')}" for key, value in given.items())])


def unfit(cls: type) -> tuple[type[Exception], ...]:
    """Return the errors of a constructor that are told in one line: any error, if it is in a file of the user."""
    return (Exception,) if own_code.record(cls) else UNFIT


def trained(name: str, build: Callable[[], CodecInterface]) -> Any:
    """Build a codec of the user's file. Raises ValueError if its weights are random: two instances then differ."""
    codec = build()
    if codec.fingerprint != build().fingerprint:
        raise ValueError(
            f"{name} has random weights: train it (tokenloom train codec={name}) and name the folder of the run, or "
            "have its constructor load them"
        )
    registry.remember(codec)
    return codec


def weightless(name: str) -> ValueError:
    """Return the error for a codec of another project, whose weights would be random."""
    return ValueError(
        f"{name} needs another project's weights: codecs.build({name!r}, checkpoint=…), or {{name: {name}, "
        "checkpoint: …} in a list of codecs; a saved copy does not need them"
    )
