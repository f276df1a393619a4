"""The configuration of a training from Python values, with the choices, types and errors of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokenloom.cli import hydra_errors, jobs, own
from tokenloom.cli.overrides import plain
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
        return own.settled(OmegaConf.to_object(config))  # type: ignore[arg-type]
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(hydra_errors.explain(error, CONFIG, overrides)) from error


def _overrides(key: str, value: Any) -> list[str]:
    """Return a key with its value in Hydra's grammar."""
    if key in GROUPS and isinstance(value, Mapping) and isinstance(value.get("name"), str):
        rest = {f"{key}.{inner}": one for inner, one in value.items() if inner != "name"}
        chosen = _overrides(key, value["name"])
        return [*chosen, *(line for inner, one in rest.items() for line in _overrides(inner, one))]
    if key in GROUPS and isinstance(value, str):
        return [f"{key}={own.choice(value) if key == 'codec' else value}"]
    return [f"{key}={plain(key, value)}"]
