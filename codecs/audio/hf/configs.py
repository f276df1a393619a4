"""Configs of transformers' audio tokenizers. Allow-lists and bounds are checked before a model is built."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from tokenloom import errors

from ... import checkpoint, foreign
from ...types import MAX_SAMPLES
from ...validate import require_integer
from .families import FAMILIES, PARTS

MAX_NUMBERS = 2**30
"""Most numbers in the weights, checked before allocation. The largest model, X-Codec 2, has 6·10^8."""
MAX_VALUE = 2**20
"""Largest integer in a config."""
MAX_COUNT = 64
"""Largest number of layers or quantizers in a config."""


def read(path: Path) -> dict[str, Any]:
    """Return the keys of a `config.json` of transformers that describe the architecture."""
    model = checkpoint.read_mapping(path)
    kind = _model_type(model, f"{path}: ")
    if model.get("_frame_rate") is not None:  # Mimi's frame_rate in newer releases
        model = {"frame_rate": model["_frame_rate"], **model}
    out = {key: value for key, value in model.items() if key in _allowed(kind)}
    for key, kinds in FAMILIES[kind].parts.items():
        part = out.get(key)
        if isinstance(part, dict) and part.get("model_type", kinds[0]) in kinds:
            known = _allowed(part.get("model_type", kinds[0]))
            out[key] = {k: v for k, v in part.items() if k in known}
    return out


def build(model: Any) -> Any:
    """Build the transformers config of an allowed model type from plain values.

    Raises:
        ValueError: If the type is not allowed, a key is unknown, or a value is out of bounds.
    """
    kind = _model_type(model)
    _check_keys(kind, kind, model)
    config_class = foreign.from_transformers(FAMILIES[kind].config_class)
    with refusing(kind):
        _check_bounds(model)
        return config_class(**{k: v for k, v in _checked_parts(model).items() if k != "model_type"})


def count_numbers(config: Any) -> int:
    """Count the numbers in a model's weights without allocating them. Raises ValueError for too many."""
    require_integer("num_quantizers", getattr(config, "num_quantizers", 1), 1, MAX_COUNT)
    if math.prod(getattr(config, "quantization_levels", ())) > MAX_VALUE or min(_strides(config)) < 1:
        raise ValueError("strides must be at least 1, and the product of quantization levels at most 2^20")
    if math.prod(_strides(config)) > MAX_SAMPLES:
        raise ValueError(f"the product of all strides must be at most {MAX_SAMPLES}, got {math.prod(_strides(config))}")
    # imported first, since constants of the module must not be created on the meta device
    model_class = foreign.from_transformers(FAMILIES[config.model_type].model_class)
    with torch.device("meta"):
        numbers = sum(value.numel() for value in model_class(config).state_dict().values())
    if numbers > MAX_NUMBERS:
        raise ValueError(f"a model must have at most {MAX_NUMBERS} numbers in its weights, got {numbers}")
    return numbers


@contextlib.contextmanager
def refusing(kind: str) -> Iterator[None]:
    """Convert errors of transformers and PyTorch about a config to a ValueError of one line."""
    try:
        yield
    except Exception as error:  # dozens of types, some of many lines
        raise ValueError(f"{kind} cannot be built from this config: {errors.one_line(error):.300}") from error


def _model_type(model: Any, where: str = "") -> str:
    """Return the model type of a config. Raises ValueError unless it is allowed."""
    kind = model.get("model_type") if isinstance(model, Mapping) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{where}model_type of audio/hf must be one of {', '.join(FAMILIES)}, got {kind!r:.80}")
    return kind


def _allowed(kind: str) -> set[str]:
    """Return the keys of a config that describe the architecture."""
    family = FAMILIES.get(kind)
    name, undeclared = (family.config_class, family.undeclared) if family else PARTS[kind]
    base = {field.name for field in dataclasses.fields(foreign.from_transformers("PreTrainedConfig"))}
    own = {field.name for field in dataclasses.fields(foreign.from_transformers(name))} - base
    return own | set(undeclared) | {"model_type"}


def _check_keys(name: str, kind: str, given: Mapping[str, Any]) -> None:
    if stray := sorted(map(str, set(given) - _allowed(kind))):
        raise ValueError(f"{name} takes no {stray[0]!r:.80}")


def _checked_parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with checked inner configs, whose types decide which classes are built."""
    out = dict(model)
    for key, kinds in FAMILIES[model["model_type"]].parts.items():
        part = out.get(key)
        if part is None:
            continue
        kind = part.get("model_type", kinds[0]) if isinstance(part, Mapping) else None
        if kind not in kinds:
            raise ValueError(f"model_type of {key} must be one of {', '.join(kinds)}, got {kind!r:.80}")
        _check_keys(key, kind, part)
        out[key] = {**part, "model_type": kind}
    return out


def _check_bounds(values: Any, name: str = "model", depth: int = 0) -> None:
    """Raise ValueError for long lists, deep nesting, and large, infinite or negative numbers."""
    if isinstance(values, Mapping | list | tuple):
        if len(values) > (32 if isinstance(values, list | tuple) else 256) or depth > 3:
            raise ValueError(f"{name} has too many values or levels: {len(values)} values at depth {depth}")
        pairs = values.items() if isinstance(values, Mapping) else ((name, value) for value in values)
        for key, value in pairs:
            _check_bounds(value, str(key), depth + 1)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        most = MAX_COUNT if name.endswith(("layers", "quantizers", "codebooks")) else MAX_VALUE
        if not (math.isfinite(values) and -1 <= values <= most):
            raise ValueError(f"{name} must be in −1 to {most}, got {values!r:.40}")
    elif values is not None and not isinstance(values, bool | str):
        raise ValueError(f"{name} must be a plain value, got {type(values).__name__}")


def _strides(config: Any) -> list[int]:
    inner = getattr(config, "acoustic_model_config", config)
    names = ("upsampling_ratios", "downsampling_ratios")
    return [stride for name in names for stride in getattr(inner, name, ())] or [1]
