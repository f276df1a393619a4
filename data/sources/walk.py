"""The files below a folder. Links are followed, without circles."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenloom.errors import printable

CLUTTER = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}
"""Names of folders and files that systems leave beside the user's own."""
FOREIGN = {
    ".heic", ".heif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raw", ".psd", ".svg", ".pdf", ".m4a", ".m4b", ".aac",
    ".wma", ".amr", ".ape", ".mp4", ".mov", ".mkv", ".webm", ".avi", ".doc", ".docx", ".rtf",
}  # fmt: skip
"""Suffixes of images, sounds and texts in formats that this package does not read."""


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether a path inside a data set is hidden, such as `.DS_Store` and `._x.png`, or the clutter of a system."""
    return any((part.startswith(".") and part not in (".", "..")) or part in CLUTTER for part in parts)


def files(root: Path, recursive: bool) -> list[Path]:
    """Return the paths of the files below `root`, relative to it and sorted. Hidden ones are left out.

    Linked files and folders count like others, but each folder is entered once: circles of links end, and a folder that
    is reached in two ways gives its files once, under its own path if that is below `root`. Warns, in one line per
    kind, of links without a target, of folders that cannot be opened, and of media in formats that cannot be read.
    """
    found, dangling, closed = [], [], []
    origin = os.path.realpath(root)
    seen: set[str] = set()
    folders, linked = [Path()], []
    while folders or linked:  # links come last, so that a folder keeps its own path
        folder = folders.pop() if folders else linked.pop(0)
        real = os.path.realpath(root / folder)
        if real in seen or (folder.parts and os.path.commonpath([origin, real]) == real):
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            closed.append(f"{root / folder}: {error.strerror or error}")
            continue
        for entry in entries:
            path, link = folder / entry.name, entry.is_symlink()
            if is_hidden([entry.name]):
                continue
            if os.path.isdir(entry.path) if link else entry.is_dir():
                (linked if link else folders).append(path)
            elif os.path.isfile(entry.path) if link else entry.is_file():
                found.append(path)
            elif link and not os.path.exists(entry.path):
                dangling.append(root / path)
        if not recursive:
            break
    _warn(root, dangling, "links that point nowhere")
    _warn(root, closed, "folders that cannot be opened")
    foreign = Counter(path.suffix.lower() for path in found if path.suffix.lower() in FOREIGN)
    kinds = " ".join(f"{suffix} ({count})" for suffix, count in foreign.most_common())
    _warn(root, [kinds] * foreign.total(), "files in formats that cannot be read")
    return sorted(found)


def _warn(root: Path, names: list, what: str) -> None:
    if names:
        text = f"data.path {str(root)!r}: left out {what} ({len(names)}): {names[0]}{', …' * (len(set(names)) > 1)}"
        warnings.warn(printable(text), stacklevel=4)
