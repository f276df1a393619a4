"""What Hydra and OmegaConf complain of, in one line that says what to type instead."""

from __future__ import annotations

import difflib
import re
from typing import Any

GROUPS = ("codec", "data", "experiment")


def explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """One line for any of their exceptions."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    text = _first_line(error)
    if several := re.match(r"Ambiguous value for argument '(.*)'$", text):
        key, _, value = several[1].partition("=")
        return f"{key}={value} names several values: a list is '{key}=[{value}]', a sweep takes -m, a text quotes"
    inner: Any = error
    while inner is not None and not isinstance(inner, ConfigAttributeError | ConfigKeyError | ValidationError):
        inner = inner.__cause__
    if isinstance(inner, ValidationError):
        return _wrong_type(inner, overrides)
    if inner is not None and inner.full_key:
        return _unknown_key(inner.full_key, config_name, overrides)
    if key := getattr(error, "full_key", None):
        return f"{key}: {text}"
    return text


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override!r} is no key=value pair"
    example = f'\'{key}=["a","b"]\'' if value.startswith("[") else f"'{key}=\"…\"'"
    return f"cannot read {override}; a value with special characters is written in quotes within quotes: {example}"


def _missing_choice(error: Any) -> str:
    from tokenloom.cli.parser import choices

    if plugin := re.fullmatch(r"hydra/launcher/(joblib|submitit_local|submitit_slurm)", str(error.missing_cfg_file)):
        return f"hydra/launcher={plugin[1]} is not installed: pip install 'tokenloom[sweep]'"
    group, _, choice = str(error.missing_cfg_file).partition("/")
    if not choice or group not in GROUPS:
        return _first_line(error)
    known = choices(group)
    return f"unknown choice {group}={choice}{_close(choice, known)}; known: {', '.join(known)}"


def _unknown_key(key: str, config_name: str, overrides: list[str]) -> str:
    parent, _, leaf = key.rpartition(".")
    known = _keys_of(parent, config_name, overrides)
    if not known and parent in GROUPS:
        return f"unknown key {key}: there is no {parent} yet, choose one with {parent}=…"
    prefix = f"{parent}." if parent else ""
    close = _close(leaf, known, prefix)
    return f"unknown key {key}{close}; known{f' under {parent}' if parent else ''}: {', '.join(known)}"


def _keys_of(parent: str, config_name: str, overrides: list[str]) -> list[str]:
    """The keys beside the one that does not exist, with the groups that the overrides choose."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    chosen = [o for o in overrides if o.partition("=")[0] in GROUPS and "," not in o]
    for attempt in (chosen, []):
        try:
            with hydra.initialize_config_module("tokenloom.conf", version_base="1.3"):
                node = OmegaConf.select(hydra.compose(config_name, overrides=attempt), parent or "")
        except HydraException:
            continue
        return [str(key) for key in node] if OmegaConf.is_dict(node) else []
    return []


def _wrong_type(error: Any, overrides: list[str]) -> str:
    key = error.full_key or "value"
    given = next((o for o in reversed(overrides) if o.lstrip("+").partition("=")[0] == key), key)
    text = _first_line(error)
    for pattern, wanted in _WANTED.items():
        if re.search(pattern, text):
            return f"{given} is wrong: {wanted}"
    return f"{given} is wrong: {text}"


_WANTED = {
    "could not be converted to Integer": "wanted a whole number",
    "could not be converted to Float": "wanted a number",
    "is not a valid bool": "wanted true or false",
    "is not Optional": "it cannot be null",
    "is not a subclass of": "it holds keys of its own, given as key.name=value",
    "is not a ListConfig": "wanted a list, [a,b]",
    "is not a ListConfig, list or tuple": "wanted a list, [a,b]",
}


def _close(name: str, known: list[str], prefix: str = "") -> str:
    match = difflib.get_close_matches(name, known, 1, 0.6)
    return f" (did you mean {prefix}{match[0]}?)" if match else ""
