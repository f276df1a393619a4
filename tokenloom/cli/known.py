"""Codecs in the options of a command. Their names are known without PyTorch: a misspelled one is reported at once."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenloom import checkpoints, errors, lazy
from tokenloom.cli import paths

yaml = lazy.load("yaml")

CODECS = "tokenloom.codecs"
"""Package of the codecs, and group of the entry points of third-party packages."""
HELP = "a registered name, a shipped name, a folder, a hub id, or a class of your own file, my_codec.py:MyCodec"
MAPPING = """\
A class of your own Python file is a codec, too: my_codec.py:MyCodec. Naming the file runs it. Arguments of the class
make it a mapping: '{name: my_codec.py:MyCodec, width: 64}'. Weights of other projects, too: '{name: image/taming,
checkpoint: last.ckpt}'. Opening a checkpoint runs no code."""
LISTING = "tokenloom codecs lists all; a folder or a hub id is possible, too"


def codec(text: str) -> str | dict[str, Any]:
    """Return a codec of a command: its name, or the mapping {name: …, …}. For `type` of argparse."""
    if not text.startswith("{"):
        return paths.name(text)
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError:
        given = None
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        example = "'{name: my_codec.py:MyCodec, width: 64}'"
        raise argparse.ArgumentTypeError(f"must be a name, or a mapping such as {example}, got {text}")
    return {
        str(key): paths.name(str(value)) if key in ("name", "checkpoint") else value for key, value in given.items()
    }


def require_codec(name: str | dict[str, Any]) -> None:
    """Raise ValueError for a word that is neither a codec nor a file, with the message of `codecs.load`.

    `codecs.load` judges all that could be a path or a hub id, and all names once the codecs are imported, since other
    code may have registered some.
    """
    if CODECS in sys.modules or os.environ.get("TOKENLOOM_WEIGHTS"):
        return
    if not isinstance(name, str) or ".py:" in name or Path(name).exists():
        return
    known = [*_shipped(), *sorted(_registered())]
    owner, slash, _ = name.partition("/")
    if name not in (*known, *checkpoints.RESEARCH_USE) and (not slash or owner in ("image", "audio", "text")):
        raise ValueError(errors.unknown("codec", name, known, LISTING))


def _shipped() -> list[str]:
    configs = Path(str(checkpoints.__file__)).parent.glob("*/config.yaml")
    return sorted(path.parent.name for path in configs if re.search(r"^codec:", path.read_text("utf-8"), re.MULTILINE))


def _registered() -> Iterator[str]:
    """Yield the names in the decorators of the codecs, and those of installed packages."""
    package = find_spec(CODECS)  # is not imported
    for path in Path(str(package and package.origin)).parent.glob("*/**/*.py"):
        yield from re.findall(r'^@register\("(.+)"\)$', path.read_text("utf-8"), re.MULTILINE)
    yield from (point.name for point in entry_points(group=CODECS))
