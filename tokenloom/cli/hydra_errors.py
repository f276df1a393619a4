"""One-line explanations of the errors of Hydra and OmegaConf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from tokenloom import errors
from tokenloom.cli import own

GROUPS = ("codec", "data", "experiment")
MEANINGS = {
    "learning_rate": "optimizer.lr", "epochs": "steps", "output": "out", "accelerator": "device", "dataset": "data",
}  # fmt: skip
"""Keys of other tools → the key that does the same."""
_REQUIREMENTS = {
    "could not be converted to Integer": "it must be a whole number",
    "could not be converted to Float": "it must be a number",
    "is not a valid bool": "it must be true or false",
    "is not Optional": "it must not be null",
    "is not a subclass of": "it has keys of its own, written key.name=value",
    "to Dict[": "it has keys of its own, written key.name=value",
    "to string": "it must be a text",
    "is not a ListConfig": "it must be a list, [a,b]",
}
"""Part of OmegaConf's message → what must hold."""


def explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """Return one line for an exception of Hydra or OmegaConf, raised while it composed conf/<config_name>.yaml."""
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override))
    if isinstance(error, MissingConfigException):
        return _missing_choice(error, overrides)
    text = errors.first_line(error)
    if several := re.match(r"Ambiguous value for argument '(.*)'$", text):
        key, _, value = several[1].partition("=")
        return f"{key}={value} has several values: write a list as '{key}=[{value}]', a text in quotes, a sweep with -m"
    if refused := re.match(r"Could not override '([^'@]*)", text):
        key = getattr(error.__cause__, "full_key", None) or refused[1]  # of a mapping, the key inside
        return _unknown_key(key, config_name, overrides)
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ConfigAttributeError | ConfigKeyError | ValidationError):
        inner = inner.__cause__
    if isinstance(inner, ValidationError):
        return _wrong_type(inner, overrides)
    if inner is not None and inner.full_key:
        return _unknown_key(inner.full_key, config_name, overrides)
    if key := getattr(error, "full_key", None):
        return f"{key}: {text}"
    return text


def _unreadable(override: str) -> str:
    key, _, value = override.partition("=")
    example = f'\'{key}=["a","b"]\'' if value.startswith("[") else f"'{key}=\"…\"'"
    return f"cannot read {override}; put a value with special characters in two pairs of quotes: {example}"


def _missing_choice(error: MissingConfigException, overrides: list[str]) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper"):
        kind = group.removeprefix("hydra/")
        ours = kind == "launcher" and choice in ("joblib", "submitit_local", "submitit_slurm")
        package = "'tokenloom[sweep]'" if ours else f"hydra-{choice}-{kind}"
        return f"{group}={choice} is not installed: pip install {package}"
    group, _, choice = str(error.missing_cfg_file).partition("/")
    if group not in GROUPS:
        return errors.first_line(error)
    if group == "data" and Path(choice).exists():
        source = "folder" if Path(choice).is_dir() else "tar"
        return f"unknown data {choice!r}; for own files: data={source} data.path={choice}"
    return errors.unknown(group, choice, own.known(group, overrides))


def _unknown_key(key: str, config_name: str, overrides: list[str]) -> str:
    known = [*_keys(config_name, overrides), "data"]
    parent = key.rpartition(".")[0]
    if parent in GROUPS and not any(name.startswith(f"{parent}.") for name in known):
        return f"unknown key {key}: there is no {parent} yet, choose one with {parent}=…"
    if meant := MEANINGS.get(key):
        return f"unknown key {key!r} (did you mean {meant}?); --cfg job lists all"
    siblings = [name for name in known if name.startswith(f"{parent}.")] if parent else []
    names = known if errors.nearest(key, known) else siblings or known
    return errors.unknown("key", key, names, "--cfg job lists all")


def _keys(config_name: str, overrides: list[str]) -> list[str]:
    """Return every dotted key of the configuration, with the group choices among the overrides."""
    chosen = [o for o in overrides if o.startswith(own.SEARCH) or (o.partition("=")[0] in GROUPS and "," not in o)]
    for attempt in (chosen, []):
        try:
            with hydra.initialize_config_module("tokenloom.conf", version_base="1.3"):
                return list(_dotted(hydra.compose(config_name, overrides=attempt)))
        except HydraException:
            continue
    return []


def _dotted(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, child in node.items_ex(resolve=False):
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _dotted(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _wrong_type(error: ValidationError, overrides: list[str]) -> str:
    key = error.full_key or "value"
    override = next((o for o in reversed(overrides) if o.lstrip("+").partition("=")[0] == key), key)
    text = errors.first_line(error)
    return f"{override} is wrong: {next((r for part, r in _REQUIREMENTS.items() if part in text), text)}"
