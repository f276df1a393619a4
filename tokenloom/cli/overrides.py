"""Conversion of the user's overrides, key=value, to those that Hydra receives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tokenloom import files

PATHS = ("out", "path", "packs", "tokens", "checkpoint", "lpips_weights", "folder", "model", "references")
"""Keys, without their groups, whose value is a path or a name, whatever signs it has."""
HOME = re.compile(r"(?:^|(?<=[\[{,:+\"'])|(?<=[,:] ))~[\w.-]*(?=[/,\]}@\"']|$)")
"""~ or ~user at the start of a value or of an element."""


def prepare(command: str, overrides: list[str], *, multirun: bool) -> list[str]:
    """Return the user's overrides in a form that Hydra reads as the user means them.

    Raises:
        ValueError: If an override has not the form key=value, or names the home folder of an unknown user.
    """
    check_form(overrides)
    overrides = [quote(expand(override), multirun=multirun) for override in overrides]
    if command == "tokenize":
        overrides = [_of_trained_codec(override) for override in overrides]
    return _defer(overrides) if multirun else overrides


def check_form(overrides: list[str]) -> None:
    """Raise ValueError for the first override without the form key=value, often a part of a value with blanks."""
    for before, override in zip(["", *overrides], overrides, strict=False):
        if "=" not in override and not override.startswith("~"):
            key, _, value = before.partition("=")
            torn = value and (key.rpartition(".")[2] in PATHS or value.count("[") > value.count("]"))
            quoted = f"; quote a value with blanks: '{before} {override}'" if torn else ""
            raise ValueError(f"an override must have the form key=value, got {override!r}{quoted}")


def expand(override: str) -> str:
    """Return an override with the home folder in place of ~ and ~user."""
    key, equals, value = override.partition("=")
    return key + equals + HOME.sub(lambda match: files.expand(match[0]), value)


def quote(override: str, *, multirun: bool = False) -> str:
    """Quote a value that Hydra's grammar cannot read, or reads as something else than the path that it is.

    `data.path=it(1).tar`, `data.path=007` and `codecs=[runs/a=b,image/jpeg]` get quotes around the path. A value with
    several possible meanings is returned unchanged.
    """
    key, equals, value = override.partition("=")
    if not equals or not value:
        return override
    reads = _parses(override)
    if key.rpartition(".")[2].lstrip("+") in PATHS and not re.match(r"[\[{]|null$|.*\$\{", value):
        as_is = reads and (value[0] in "\"'" or (multirun and _parses(override, sweep=True)))
        return override if as_is else f"{key}={literal(value)}"
    if reads or re.search(r"[{}]", value):
        return override
    if listed := re.fullmatch(r"\[([^\[\]]*)\]", value):
        elements = [element.strip() for element in listed[1].split(",")]
        if any(e.count("(") != e.count(")") or re.match("[\"']", e) for e in elements):
            return override  # a comma within parentheses or quotes does not separate elements
        return f"{key}=[{','.join(e if _parses(f'x={e}') else literal(e) for e in elements)}]"
    return override if re.match("[\\[\"']", value) or "," in value else f"{key}={literal(value)}"


def literal(text: str) -> str:
    """Return a text in quotes, which Hydra reads as this text."""
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)  # Hydra reads pairs of backslashes before a quote only
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f'"{text}"'


def plain(key: str, value: Any) -> str:
    """Return a plain value in Hydra's grammar. Every text is quoted, so that no sign in it has a meaning."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PathLike):
        text = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), fspath(value))
        return '"' + text.replace("${", "\\${") + '"'
    if isinstance(value, list | tuple):
        return f"[{','.join(plain(key, one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{inner}:{plain(key, one)}' for inner, one in value.items())}}}"
    raise ValueError(f"{key} must be a plain value: a number, text, list or mapping, got {type(value).__name__}")


def folders(command: str, overrides: list[str], *, multirun: bool) -> list[str]:
    """Return the overrides with Hydra's folders derived from `out`.

    Hydra then writes the records of a job to the folder of its results. Each job of a sweep has its own folder.
    """
    rest = [o for o in overrides if not o.startswith("out=")]
    outs = [o.removeprefix("out=") for o in overrides if o.startswith("out=")]
    # otherwise every job writes an empty log file, and records into a folder that another run may hold
    quiet = ["hydra/job_logging=disabled", "hydra.output_subdir=null"]
    if not multirun:
        follow = bool(outs) or command != "train"  # without out=, conf/train.yaml sets `out` to Hydra's folder
        return [*quiet, *overrides, *(["hydra.run.dir=${out}"] if follow else [])]
    if outs and _parses(f"out={outs[-1]}", sweep=True):
        return [*quiet, *overrides]
    folder = [f"hydra.sweep.dir={outs[-1]}"] if outs else []
    own = [] if command == "train" else ["out=${hydra:runtime.output_dir}"]  # the default of train
    return [*quiet, *rest, *folder, *own]


def _parses(override: str, *, sweep: bool = False) -> bool:
    """Whether Hydra can read an override; with `sweep`, as a sweep over several values."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return parsed.is_sweep_override() or not sweep


def _of_trained_codec(override: str) -> str:
    """Rewrite codec=NAME to codec.name=NAME. Hydra would look for codec=NAME under conf/codec/, codecs to train."""
    key, equals, value = override.partition("=")
    if equals and key == "codec" and not value.startswith("{"):
        return f"codec.name={value}"
    return f"++{override}" if key.startswith("codec.") and key != "codec.name" else override


def _defer(overrides: list[str]) -> list[str]:
    """Prefix ++ to the keys of groups that a sweep chooses.

    Hydra would look up such a key before the sweep chooses its group, and fail. With ++ Hydra accepts any key, and the
    codec or data source rejects unknown ones.
    """
    swept = {o.partition("=")[0] for o in overrides if _parses(o, sweep=True)}
    groups = {"codec", "data"} & swept if "experiment" not in swept else {"codec", "data"}
    return [f"++{o}" if o.partition("=")[0].partition(".")[0] in groups and "." in o.partition("=")[0] else o
            for o in overrides]  # fmt: skip
