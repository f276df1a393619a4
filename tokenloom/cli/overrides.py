"""Conversion of the user's overrides, key=value, to those that Hydra receives."""

from __future__ import annotations

import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


def prepare(command: str, overrides: list[str], *, multirun: bool) -> list[str]:
    """Return the user's overrides in a form that Hydra reads as the user means them."""
    overrides = [quote(override) for override in overrides]
    if command == "tokenize":
        overrides = [_of_trained_codec(override) for override in overrides]
    return _defer(overrides) if multirun else overrides


def quote(override: str) -> str:
    """Quote a value that Hydra's grammar cannot read, if it has only one possible meaning.

    `data.path=it(1).tar` and `codecs=[runs/a=b,image/jpeg]` get quotes around the path. Values with quotes, braces or
    nested lists are returned unchanged.
    """
    key, equals, value = override.partition("=")
    if not equals or not value or _parses(override) or re.search(r"[\"'{}]|\\$", value):
        return override
    if listed := re.fullmatch(r"\[([^\[\]]*)\]", value):
        elements = [element.strip() for element in listed[1].split(",")]
        if any(element.count("(") != element.count(")") for element in elements):
            return override  # a comma within parentheses does not separate elements
        return f"{key}=[{','.join(e if _parses(f'x={e}') else _quoted(e) for e in elements)}]"
    if value.startswith("[") or "," in value:
        return override
    return f"{key}={_quoted(value)}"


def folders(command: str, overrides: list[str], *, multirun: bool) -> list[str]:
    """Return the overrides with Hydra's folders derived from `out`.

    Hydra then writes the records of a job to the folder of its results. Each job of a sweep has its own folder.
    """
    rest = [o for o in overrides if not o.startswith("out=")]
    outs = [o.removeprefix("out=") for o in overrides if o.startswith("out=")]
    quiet = ["hydra/job_logging=disabled"]  # otherwise every job writes an empty log file
    # train writes its records itself; the index of tokenize holds its overrides
    quiet += ["hydra.output_subdir=null"] if command in ("train", "tokenize") else []
    if not multirun:
        follow = bool(outs) or command != "train"  # without out=, conf/train.yaml sets `out` to Hydra's folder
        return [*quiet, *overrides, *(["hydra.run.dir=${out}"] if follow else [])]
    if outs and "," in outs[-1]:  # a sweep over `out` itself
        return [*quiet, *overrides]
    folder = [f"hydra.sweep.dir={outs[-1]}"] if outs else []
    own = [] if command == "train" else ["out=${hydra:runtime.output_dir}"]  # the default of train
    return [*quiet, *rest, *folder, *own]


def _quoted(value: str) -> str:
    return f'"{value}"'


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
    if equals and key == "codec":
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
