"""Checkpoints of audio tokenizers: of transformers, Descript's DAC and Kyutai's Mimi."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import errors

from ... import foreign
from ...foreign import dac, mimi
from . import configs
from .families import FAMILIES


def locate(source: str) -> Path:
    """Return the path of the weights in a file, a folder or a hub repository."""
    return foreign.locate(source, mimi.FILE, *foreign.WEIGHTS, dac.FILE)


def is_transformers(path: Path) -> bool:
    """Return whether weights lie next to a `config.json` of transformers."""
    return (path.parent / "config.json").is_file() and path.name in foreign.WEIGHTS


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the transformers config of a checkpoint as plain values, and its state dict with transformers' names.

    Raises:
        ValueError: If the checkpoint is of another project or damaged.
    """
    if is_transformers(path):
        return configs.read(path.parent / "config.json"), foreign.tensors(foreign.read(path))
    content = foreign.read(path)
    if isinstance(content.get("state_dict"), Mapping) and isinstance(content.get("metadata"), Mapping):
        return dac.convert(foreign.tensors(content, "state_dict"), dict(content["metadata"].get("kwargs") or {}))
    state = foreign.tensors(content)
    if any(name.startswith("quantizer.rvq_first.") for name in state):
        return mimi.convert(state)
    raise ValueError(
        f"{path} must be in a transformers folder with a config.json, or a checkpoint of descript-audio-codec (.pth) "
        "or moshi (.safetensors)"
    )


def current_names(config: Any, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the state dict of any release of transformers to the names of the installed release.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    model_class = foreign.from_transformers(FAMILIES[config.model_type].model_class)
    try:
        with _quiet():
            model, report = model_class.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32
            )
    except Exception as error:  # the library reports mismatched shapes as a table
        reason = errors.first_line(error)
        raise ValueError(f"{path} holds another architecture than its config: {reason:.300}") from error
    problems = [f"lacks {name}" for name in sorted(report["missing_keys"])]
    problems += [f"has a stray {name}" for name in sorted(report["unexpected_keys"])]
    problems += [f"has another shape of {name}" for name in sorted(map(str, report["mismatched_keys"]))]
    own = model.state_dict()
    held, needed = (sum(value.numel() for value in tensors.values()) for tensors in (state, own))
    if held != needed:  # the library does not report every unknown name
        problems.append(f"holds {held} numbers instead of {needed}")
    if problems:
        raise ValueError(
            f"{path} holds another architecture than its config: it {problems[0]} ({len(problems)} differences)"
        )
    return own


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the library's progress bar and its table of missing names."""
    library_logging = foreign.from_transformers("logging")
    shown, verbosity = library_logging.is_progress_bar_enabled(), library_logging.get_verbosity()
    library_logging.disable_progress_bar()
    library_logging.set_verbosity(library_logging.CRITICAL)
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)
        if shown:
            library_logging.enable_progress_bar()
