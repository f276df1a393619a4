"""Overrides, key=value, as Hydra must receive them."""

from __future__ import annotations

import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


def prepare(command: str, overrides: list[str], *, multirun: bool) -> list[str]:
    """Return overrides that Hydra can read and that mean what the user wrote."""
    overrides = [quote(override) for override in overrides]
    if command == "tokenize":
        overrides = [_of_trained_codec(override) for override in overrides]
    return _defer(overrides) if multirun else overrides


def quote(override: str) -> str:
    """Quote a value that Hydra's grammar cannot read but that has only one possible meaning.

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
    """Return the overrides with Hydra's folders set after `out`.

    The records of a job are then beside its results, and the jobs of a sweep have folders of their own.
    """
    rest = [o for o in overrides if not o.startswith("out=")]
    given = [o.removeprefix("out=") for o in overrides if o.startswith("out=")]
    quiet = ["hydra/job_logging=disabled"]  # otherwise every job leaves an empty log file
    # train writes its records itself; the index of tokenize holds its overrides
    quiet += ["hydra.output_subdir=null"] if command in ("train", "tokenize") else []
    if not multirun:
        follow = bool(given) or command != "train"  # without out=, conf/train.yaml sets `out` to Hydra's folder
        return [*quiet, *overrides, *(["hydra.run.dir=${out}"] if follow else [])]
    if given and "," in given[-1]:  # a sweep over `out` itself
        return [*quiet, *overrides]
    folder = [f"hydra.sweep.dir={given[-1]}"] if given else []
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
    """Rewrite codec=NAME to codec.name=NAME: by itself Hydra would look for a codec to train under conf/codec/."""
    key, equals, value = override.partition("=")
    if equals and key == "codec":
        return f"codec.name={value}"
    return f"++{override}" if key.startswith("codec.") and key != "codec.name" else override


def _defer(overrides: list[str]) -> list[str]:
    """Prefix ++ to the keys of groups that a sweep chooses.

    Hydra looks such keys up before the sweep has chosen the group, and would not find them. With ++ the codec or data
    source refuses an unknown key.
    """
    swept = {o.partition("=")[0] for o in overrides if _parses(o, sweep=True)}
    groups = {"codec", "data"} & swept if "experiment" not in swept else {"codec", "data"}
    return [f"++{o}" if o.partition("=")[0].partition(".")[0] in groups and "." in o.partition("=")[0] else o
            for o in overrides]  # fmt: skip
