"""Metrics of the user's own files, which every protocol of their modality includes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tokenloom.codecs.types import Modality
from tokenloom.registry import Registry

Function = TypeVar("Function", bound=Callable[..., float])


@dataclass(frozen=True)
class Description:
    """What reports say of a registered metric. See `register` for the fields."""

    higher: bool
    unit: str
    label: str
    definition: str


FUNCTIONS: Registry[Callable[..., float]] = Registry(
    "metric", pattern=r"(text|image|audio)/[a-z][a-z0-9_]*", form="modality/name, such as 'image/edges'"
)
"""Registered functions by modality/name."""
_DESCRIPTIONS: dict[str, Description] = {}


def register(
    name: str, *, higher: bool, unit: str = "", label: str | None = None, definition: str | None = None
) -> Callable[[Function], Function]:
    """Return a decorator that adds a metric to the protocols of its modality.

    The function takes (reference, output) and returns a number: images float32 (3, height, width) in [0, 1], rounded
    as the protocol says (one channel for the luma protocol); texts str; sounds float32 (channels, samples) in [-1, 1],
    for which it also takes sample_rate in Hz. It raises `metrics.errors.Unmeasurable` for an item without a value.

    Args:
        name: "modality/name". The second part is the key in results files.
        higher: Whether a higher value is better.
        unit: Unit in tables, such as "dB".
        label: Name in tables; default: the second part of `name`.
        definition: Exact definition for results files; default: the first line of the docstring.

    Raises:
        ValueError: If the name is malformed, or another function has it.
    """

    def add(function: Function) -> Function:
        FUNCTIONS.register(name)(function)
        first = (function.__doc__ or "").strip().partition("\n")[0]
        _DESCRIPTIONS[name] = Description(higher, unit, label or name.partition("/")[2], definition or first)
        return function

    return add


def registered(modality: Modality) -> dict[str, tuple[Callable[..., float], Description]]:
    """Return function and description of the registered metrics of a modality, by their key in results files."""
    prefix = f"{modality}/"
    return {
        name.removeprefix(prefix): (function, _DESCRIPTIONS[name])
        for name, function in FUNCTIONS.items()
        if name.startswith(prefix)
    }
