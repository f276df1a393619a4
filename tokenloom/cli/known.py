"""Names of codecs, known without importing PyTorch: a misspelled name is reported at once."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from tokenloom import checkpoints, errors

CODECS = "tokenloom.codecs"
"""Package of the codecs, and group of the entry points of third-party packages."""
LISTING = "tokenloom codecs lists all; a folder or a hub id is possible, too"


def require_codec(name: str) -> None:
    """Raise ValueError for a word that is neither a codec nor a file, with the message of `codecs.load`.

    `codecs.load` judges all that could be a path or a hub id, and all names once the codecs are imported, since other
    code may have registered some.
    """
    if CODECS in sys.modules or os.environ.get("TOKENLOOM_WEIGHTS") or Path(name).exists():
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
