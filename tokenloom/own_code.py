"""Python files of the user, which register codecs, losses, metrics, data sources and tasks.

A file runs if the user names it: `import=my_codec.py`, `--import my_codec.py`, `codecs=[my_codec.py:MyCodec]`, or
`load`. From then on the folder `imports` in the user's configuration holds its SHA-256 and its path.

A checkpoint records the name and the SHA-256 of the file that defines its class. `recall` runs this file only if the
user has imported a file with this content, which still has it. A checkpoint of someone else therefore runs no code of
its own. A copy of the file in a checkpoint never runs by itself.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import site
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import errors, files

COPIES = "code"
"""Folder of a run with copies of the imported files. They are records: nothing runs them by itself."""
_loaded: dict[Path, str] = {}
"""Path of each file that was run → its SHA-256."""
_copies: dict[str, Path] = {}
"""Name of a file that was not run, since one of the same content had → path of the latter."""


def load(paths: str | Path | Iterable[str | Path]) -> None:
    """Run Python files of the user, and remember them for `recall`. A file that has run with its content is skipped.

    Args:
        paths: One or several files, packages (folders with `__init__.py`), or folders whose files are all run.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a path is not Python, fails, or has the name of another module.
    """
    for path in _expand(paths):
        digest = sha256(path)
        if ran := [other for other, its in _loaded.items() if its == digest]:
            _copies[path.name] = ran[0]
        else:
            _run(path, again=path in _loaded)
            _loaded[path] = digest
        _remember(path, digest)


def module(path: str | Path) -> ModuleType:
    """Run a file as `load` does, and return its module, or that of a file with the same content that ran before."""
    load(path)
    place = Path(path).expanduser().resolve()
    return sys.modules[place.stem if place in _loaded else _copies[place.name].stem]


def loaded(name: str) -> ModuleType | None:
    """Return the module of the file of this name that has run, or of one with its content, or None. No code runs."""
    path = next((path for path in reversed(_loaded) if path.name == name), _copies.get(name))
    return None if path is None else sys.modules.get(path.stem)


def paths() -> tuple[str, ...]:
    """Return the paths of all files that were run, for another process."""
    return tuple(map(str, _loaded))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex; of a package, that of the names and contents of its Python files."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.py")):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\0".encode())
    return digest.hexdigest()


def record(definition: Any) -> list[dict[str, str]]:
    """Return name and SHA-256 of the user's file that defines a class or a function, as a checkpoint stores them.

    The list is empty for tokenloom itself, for installed packages, and for definitions without a file.
    """
    package = definition.__module__.partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None)
    if package == "tokenloom" or file is None:
        return []
    path = Path(file).resolve()
    if any(path.is_relative_to(folder) for folder in _installed()):
        return []
    path = path.parent if path.name == "__init__.py" else path
    return [{"file": path.name, "sha256": _loaded.get(path) or sha256(path)}]


def recall(records: Any, owner: Path, *, known: bool = False) -> list[str]:
    """Run the files that a checkpoint or a run needs, if the user has imported them before.

    Args:
        records: The mappings of `record`, as the config of `owner` holds them. Nothing in them is trusted.
        owner: Folder of the checkpoint, for messages.
        known: Whether what the files register is there already. Then a missing file is no error.

    Returns:
        The paths of the files.

    Raises:
        ValueError: If a file was never imported, or has changed since. The message says how to import it.
    """
    found = []
    for entry in records if isinstance(records, list) else [records] if records else []:
        if not isinstance(entry, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256"))):
            raise ValueError(f"{owner}: imports must hold the file and the sha256 of each import, got {entry!r:.80}")
        name, digest = Path(str(entry.get("file"))).name, str(entry["sha256"])
        here = [path for path, its in _loaded.items() if its == digest]
        path = here[0] if here else _remembered(digest)
        if path is not None and path.exists() and sha256(path) == digest:
            load(path)
            _copies[name] = path
            found.append(str(path))
            continue
        same_name = [other for other in _loaded if other.name == name]
        if same_name:
            warnings.warn(f"{same_name[0]} differs from the {name} that {owner} was made with", stacklevel=3)
            found.append(str(same_name[0]))
        elif not known:
            raise ValueError(_needed(name, digest, path, owner))
    return found


def keep(paths: Iterable[str], owner: Path) -> None:
    """Copy the user's files to the folder `code` of a run, as a record."""
    for path in _expand(paths):
        copy = owner / COPIES / path.name
        for file in [path] if path.is_file() else path.rglob("*.py"):
            files.write(copy / file.relative_to(path) if path.is_dir() else copy, file.read_bytes())


def _needed(name: str, digest: str, path: Path | None, owner: Path) -> str:
    """Return the message that asks the user for an import."""
    copy = owner / COPIES / name
    kept = str(copy) if copy.exists() and sha256(copy) == digest else ""
    if path is not None and path.exists():
        other = f", or import={kept} for the version of the run" if kept else ""
        return f"{owner} needs {name}, and {path} has changed since it was imported: add import={path}{other}"
    state = "code that was never imported on this machine: read it, then" if path is None else f"and {path} is gone:"
    return (
        f"{owner} needs {name}, {state} add import={kept or f'FOLDER/{name}'} (--import for commands without key=value)"
    )


def _expand(paths: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    """Yield the absolute path of each file and package."""
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given).expanduser().resolve()
        if not path.exists():
            raise FileNotFoundError(f"import={given}: there is no such file or folder")
        if path.is_dir() and not (path / "__init__.py").is_file():
            if not (inside := sorted(path.glob("*.py"))):
                raise ValueError(f"import={given}: the folder must hold Python files, and it has none")
            yield from inside
        elif path.is_dir() or path.suffix == ".py":
            yield path
        else:
            raise ValueError(f"import must be a Python file or a folder, got {given}")


def _run(path: Path, again: bool) -> None:
    """Import a file or a package by its name; `again`: also if it is imported already.

    Its folder joins the end of the search path, for the modules beside it and for other processes.
    """
    name, file = path.stem, path / "__init__.py" if path.is_dir() else path
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    if "." in name:
        raise ValueError(f"import={path}: the name of a module must not have a dot; rename the file")
    if other := _other_module(name, file):
        raise ValueError(f"import={path}: the module {name} is {other} already; rename the file")
    before = sys.modules.get(name)
    if before is not None and not again:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the file ends in .py
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{file}, line {line}" if line else str(file)
        raise ValueError(f"{where}: {errors.describe(error)}") from error


def _other_module(name: str, file: Path) -> str | None:
    """Return where another module of this name is: one that is loaded, installed, or a part of Python."""
    if name in sys.modules:
        place = getattr(sys.modules[name], "__file__", None) or "a part of Python"
        return None if Path(place).resolve() == file else place
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    folders = [*_installed(), Path(sysconfig.get_path("stdlib")).resolve()]
    inside = not spec.has_location or any(Path(spec.origin).resolve().is_relative_to(folder) for folder in folders)
    return spec.origin if inside else None


def _installed() -> Sequence[Path]:
    """Return the folders of installed packages."""
    folders = {*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()}
    purelib = [folder for folder in folders if Path(folder).name in ("site-packages", "dist-packages")]
    return [Path(folder).resolve() for folder in purelib]


# -- what the user has imported --------------------------------------------------------------------


def _remember(path: Path, digest: str) -> None:
    entry = files.config_folder() / "imports" / digest
    try:
        if not entry.is_file() or entry.read_text("utf-8") != str(path):
            files.write(entry, str(path))
    except OSError as error:
        reason = errors.one_line(error)
        warnings.warn(f"{path.name} is not remembered ({reason}): what it registers needs import= again", stacklevel=3)


def _remembered(digest: str) -> Path | None:
    entry = files.config_folder() / "imports" / digest
    return Path(entry.read_text("utf-8")) if entry.is_file() else None
