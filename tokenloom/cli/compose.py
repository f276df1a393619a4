"""The configuration of a training from Python values, with the choices, types and errors of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokenloom.cli import hydra_errors, jobs, own
from tokenloom.train.config import compose as schema
from tokenloom.train.run_config import RunConfig

CONFIG = "train"
GROUPS = ("codec", "data", "omni", "decoder", "experiment")
"""Keys that choose a file of conf/. A mapping chooses the one of its `name`, and sets the other keys."""


def compose(values: Mapping[str, Any]) -> RunConfig:
    """Return the typed configuration of a training.

    Args:
        values: Key of conf/train.yaml, or a dotted key → plain value.

    Raises:
        ValueError: If a key is unknown, or a value has the wrong type or is missing.
    """
    overrides = [line for key, value in values.items() for line in _overrides(key, value)]
    own.offer(overrides)
    ConfigStore.instance().store(name="train_schema", node=schema())
    try:
        with hydra.initialize_config_module("tokenloom.conf", version_base="1.3", job_name=CONFIG):
            config = hydra.compose(CONFIG, overrides=overrides)
        jobs.check_complete(config)
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(hydra_errors.explain(error, CONFIG, overrides)) from error


def _overrides(key: str, value: Any) -> list[str]:
    """Return a key with its value in Hydra's grammar."""
    if key in GROUPS and isinstance(value, Mapping) and isinstance(value.get("name"), str):
        rest = {f"{key}.{inner}": one for inner, one in value.items() if inner != "name"}
        return [f"{key}={value['name']}", *(line for inner, one in rest.items() for line in _overrides(inner, one))]
    if key in GROUPS and isinstance(value, str):
        return [f"{key}={value}"]
    return [f"{key}={_literal(key, value)}"]


def _literal(key: str, value: Any) -> str:
    """Return a plain value in Hydra's grammar. Every text is quoted, so that no sign in it has a meaning."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PathLike):
        text = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), fspath(value))
        return '"' + text.replace("${", "\\${") + '"'
    if isinstance(value, list | tuple):
        return f"[{','.join(_literal(key, one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{inner}:{_literal(key, one)}' for inner, one in value.items())}}}"
    raise ValueError(f"{key} must be a plain value: a number, text, list or mapping, got {type(value).__name__}")
