"""The source files of the project, by room (root folder)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("tokenloom", "codecs", "metrics", "models", "data", "train", "eval", "conf", "checkpoints")


def files(room: str) -> list[Path]:
    """Return all files of a room, sorted. The links from tokenloom/ to the other rooms are not followed."""
    return sorted(_walk(ROOT / room))


def paths(room: str = "") -> list[Path]:
    """Return the Python files of one room, or of all rooms."""
    return [path for name in ((room,) if room else ROOMS) for path in files(name) if path.suffix == ".py"]


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif not path.is_symlink() and path.name != "__pycache__" and not path.name.startswith("."):
            yield from _walk(path)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "tokenloom" else ("tokenloom", *parts)
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in paths()}
