"""What a checkpoint's config may hold: the architecture of a codec, of as many numbers as its weights have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tokenloom import devices, own_code

from . import checkpoint, registry

REQUESTS = ("checkpoint", "device")
"""Arguments of `codecs.build` that open files or the hub, or choose a device."""


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


def weightless(name: str) -> ValueError:
    """Return the error for a codec of another project, whose weights would be random."""
    return ValueError(
        f"{name} needs another project's weights: codecs.build({name!r}, checkpoint=…), or {{name: {name}, "
        "checkpoint: …} in a list of codecs; a saved copy does not need them"
    )
