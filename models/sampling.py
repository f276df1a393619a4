"""Sampling parameters, their defaults and ranges, and the choice of an id from logits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, searchsorted

from tokenloom.codecs.validate import require_integer

DEFAULTS = {"guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": None, "best_of": 1}
"""Sampling parameters and their defaults."""
MAX_BEST_OF = 64


def resolve(given: Mapping[str, Any], defaults: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """Return all sampling parameters. A call overrides the defaults of its output, of the model, and DEFAULTS.

    Args:
        given: Parameters of the call. None stands for the default.
        defaults: Defaults of the model, and mappings of defaults under the names of outputs.
        outputs: Names of the call's output: its modality, then its channel.
    """
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise ValueError(f"generate has no parameter {unknown[0]!r}; sampling parameters are {', '.join(DEFAULTS)}")
    found = dict(DEFAULTS)
    for level in (defaults, *(defaults.get(name, {}) for name in outputs), given):
        found |= {key: value for key, value in level.items() if key in DEFAULTS and value is not None}
    check(found)
    return found


def check_defaults(defaults: Any, outputs: Collection[str]) -> dict[str, Any]:
    """Return a copy of a model's defaults (see `resolve`). `outputs` are the names of its channels and modalities.

    Raises ValueError if a key is unknown or a value is out of range.
    """
    if not isinstance(defaults, Mapping):
        raise ValueError(f"defaults must be a mapping, got {defaults!r:.80}")
    own = {key: value for key, value in defaults.items() if key in outputs}
    if wrong := [key for key, value in own.items() if not isinstance(value, Mapping)]:
        raise ValueError(f"defaults.{wrong[0]} must be a mapping, got {own[wrong[0]]!r:.80}")
    general = {key: value for key, value in defaults.items() if key not in outputs}
    for values in (general, *own.values()):
        if unknown := [key for key in values if key not in DEFAULTS]:
            raise ValueError(f"unknown defaults.{unknown[0]}; known are {', '.join((*DEFAULTS, *sorted(outputs)))}")
        check(DEFAULTS | dict(values))
    return general | {key: dict(value) for key, value in own.items()}


def check(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError if one of the parameters in DEFAULTS is out of range."""
    require_integer("best_of", parameters["best_of"], 1, MAX_BEST_OF)
    check_ranges(**{key: value for key, value in parameters.items() if key != "best_of"})


def check_ranges(
    guidance: float, temperature: float, top_k: int | None = None, top_p: float | None = None,
    max_tokens: int | None = None, seed: int | None = None,
) -> None:  # fmt: skip
    """Raise ValueError if an argument of `generate.sample` is out of range."""
    for name, value in (("guidance", guidance), ("temperature", temperature)):
        if not _is_number(value) or value < 0:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    for name, value, low in (("top_k", top_k, 1), ("max_tokens", max_tokens, 1), ("seed", seed, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
            raise ValueError(f"{name} must be an integer of at least {low}, or None, got {value!r}")
    if top_p is not None and not (_is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p must be above 0 and at most 1, or None, got {top_p!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def choose(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Draw an index per row by inverting the cumulative distribution. Rows do not depend on each other.

    Args:
        logits: (rows, n).
        uniform: One number in [0, 1) per row.
        temperature: Divides the logits; 0 selects the most likely index.
        top_k: Keep the k most likely indices. Among equal logits the first indices win.
        top_p: Then keep the smallest set of most likely indices that reaches this probability (nucleus sampling,
            arXiv 1904.09751).

    Returns:
        int64 (rows,).
    """
    if temperature == 0:
        return logits.argmax(-1)
    order = None
    if top_k is not None or top_p is not None:
        logits, order = logits.sort(dim=-1, descending=True, stable=True)
        logits, order = logits[:, :top_k], order[:, :top_k]
    probability = (logits.double() / temperature).softmax(-1)
    total = probability.cumsum(-1)
    if top_p is not None:
        probability = probability.masked_fill(total - probability >= top_p, 0)
        total = probability.cumsum(-1)
    index = searchsorted(total, (uniform * total[:, -1])[:, None], right=True)
    return (index if order is None else order.gather(1, index))[:, 0]
