"""What sampling is told: from a call, else from the model's defaults, else plainly as trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenloom.codecs.validate import is_integer

from . import generate
from .vocabulary.vocabulary import Channel, Vocabulary

PLAIN = {"guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": None, "best_of": 1}
"""What sampling is told, and as what where neither a call nor the model says anything."""
SAMPLING = tuple(PLAIN)
MOST_TRIES = 64
"""Samples that one result is the best of."""


def chosen(given: Mapping[str, Any], defaults: Mapping[str, Any], channel: Channel | None) -> dict[str, Any]:
    """What a call names, else the default of what it makes, else that of the model; ValueError for nonsense."""
    if unknown := sorted(set(given) - set(SAMPLING)):
        raise ValueError(f"generate takes no {unknown[0]!r}; sampling is {', '.join(SAMPLING)}")
    found = dict(PLAIN)
    own = () if channel is None else (str(channel.modality), channel.name)
    for level in (defaults, *(defaults.get(key, {}) for key in own), given):
        found |= {key: value for key, value in level.items() if key in SAMPLING and value is not None}
    check(found)
    return found


def check(sampling: Mapping[str, Any]) -> None:
    """ValueError where a number of the sampling is out of range."""
    if not is_integer(sampling["best_of"], 1, MOST_TRIES):
        raise ValueError(f"best_of {sampling['best_of']!r} is no whole number from 1 to {MOST_TRIES}")
    generate.check(**{key: value for key, value in sampling.items() if key != "best_of"})


def checked(defaults: Any, vocabulary: Vocabulary) -> dict[str, Any]:
    """The defaults, copied; ValueError for a key that nothing reads or a value out of range."""
    if not isinstance(defaults, Mapping):
        raise ValueError(f"defaults {defaults!r:.80} are no mapping")
    makes = {*vocabulary.channels, *(str(channel.modality) for channel in vocabulary.channels.values())}
    own = {key: value for key, value in defaults.items() if key in makes}
    if wrong := [key for key, value in own.items() if not isinstance(value, Mapping)]:
        raise ValueError(f"defaults.{wrong[0]} {own[wrong[0]]!r:.80} is no mapping")
    general = {key: value for key, value in defaults.items() if key not in makes}
    for values in (general, *own.values()):
        if unknown := [key for key in values if key not in SAMPLING]:
            raise ValueError(f"defaults.{unknown[0]} is none of {', '.join((*SAMPLING, *sorted(makes)))}")
        check(PLAIN | dict(values))
    return general | {key: dict(value) for key, value in own.items()}
