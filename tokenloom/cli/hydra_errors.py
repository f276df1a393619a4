"""One-line explanations of the errors of Hydra and OmegaConf."""

from __future__ import annotations

import difflib
import re

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from tokenloom import errors
from tokenloom.cli.options import choices

GROUPS = ("codec", "data", "experiment")
_REQUIREMENTS = {
    "could not be converted to Integer": "it must be a whole number",
    "could not be converted to Float": "it must be a number",
    "is not a valid bool": "it must be true or false",
    "is not Optional": "it must not be null",
    "is not a subclass of": "it has keys of its own, written key.name=value",
    "is not a ListConfig": "it must be a list, [a,b]",
}
"""Part of OmegaConf's message → what must hold."""


def explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """Return one line for an exception of Hydra or OmegaConf, raised while it composed conf/<config_name>.yaml."""
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override))
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    text = errors.first_line(error)
    if several := re.match(r"Ambiguous value for argument '(.*)'$", text):
        key, _, value = several[1].partition("=")
        return f"{key}={value} has several values: write a list as '{key}=[{value}]', a text in quotes, a sweep with -m"
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
    key, equals, value = override.partition("=")
    if not equals:
        return f"an override must have the form key=value, got {override!r}"
    example = f'\'{key}=["a","b"]\'' if value.startswith("[") else f"'{key}=\"…\"'"
    return f"cannot read {override}; put a value with special characters in two pairs of quotes: {example}"


def _missing_choice(error: MissingConfigException) -> str:
    if plugin := re.fullmatch(r"hydra/launcher/(joblib|submitit_local|submitit_slurm)", str(error.missing_cfg_file)):
        return f"hydra/launcher={plugin[1]} is not installed: pip install 'tokenloom[sweep]'"
    group, _, choice = str(error.missing_cfg_file).partition("/")
    if not choice or group not in GROUPS:
        return errors.first_line(error)
    known = choices(group)
    return f"unknown choice {group}={choice}{_suggestion(choice, known)}; known: {', '.join(known)}"


def _unknown_key(key: str, config_name: str, overrides: list[str]) -> str:
    parent, _, leaf = key.rpartition(".")
    known = _keys_of(parent, config_name, overrides)
    if not known and parent in GROUPS:
        return f"unknown key {key}: there is no {parent} yet, choose one with {parent}=…"
    prefix = f"{parent}." if parent else ""
    known_under = f"known under {parent}" if parent else "known"
    return f"unknown key {key}{_suggestion(leaf, known, prefix)}; {known_under}: {', '.join(known)}"


def _keys_of(parent: str, config_name: str, overrides: list[str]) -> list[str]:
    """Return the keys under `parent` of the configuration, with the group choices among the overrides."""
    chosen = [o for o in overrides if o.partition("=")[0] in GROUPS and "," not in o]
    for attempt in (chosen, []):
        try:
            with hydra.initialize_config_module("tokenloom.conf", version_base="1.3"):
                node = OmegaConf.select(hydra.compose(config_name, overrides=attempt), parent or "")
        except HydraException:
            continue
        return [str(key) for key in node] if OmegaConf.is_dict(node) else []
    return []


def _wrong_type(error: ValidationError, overrides: list[str]) -> str:
    key = error.full_key or "value"
    override = next((o for o in reversed(overrides) if o.lstrip("+").partition("=")[0] == key), key)
    text = errors.first_line(error)
    return f"{override} is wrong: {next((r for part, r in _REQUIREMENTS.items() if part in text), text)}"


def _suggestion(name: str, known: list[str], prefix: str = "") -> str:
    match = difflib.get_close_matches(name, known, 1, 0.6)
    return f" (did you mean {prefix}{match[0]}?)" if match else ""
