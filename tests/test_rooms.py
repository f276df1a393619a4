"""Rules of the source tree: the order of imports, no circles, imports at the head, sizes, names, docstrings.

A room is a root folder with the modules in it.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.tree import MODULES, ROOT, module_name, paths

SMALL = {
    "devices", "environment", "errors", "files", "interrupts", "lazy", "lock", "memory", "own_code",
    "native", "precision", "progress", "registry", "threads",
}  # fmt: skip
"""Modules of the root package that every room may import."""
MAY_IMPORT = {
    "tokenloom": SMALL,
    "codecs": {"codecs", "checkpoints", *SMALL},
    "metrics": {"codecs", "metrics", *SMALL},
    "models": {"codecs", "models", *SMALL},
    "data": {"codecs", "data", *SMALL},
    "train": {"codecs", "metrics", "models", "data", "train", *SMALL},
    "eval": {"codecs", "metrics", "models", "data", "eval", *SMALL},
    "conf": set(),
    "checkpoints": set(),
}
"""Rooms and small modules that each room may import. `tokenloom/cli/` may import all. All may import `__version__`."""
FRONT_DOOR = ("__init__.py", "__main__.py", "api.py")
"""Files of the root package that may import all, like those of `cli/`."""
ALLOWED = 2
"""Largest number of imports inside functions per 1,000 lines."""
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES.values()}


def imports(path: Path) -> set[str]:
    """Return the project's modules that a file imports, also inside functions and for type checking."""
    name = module_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            named = {f"{source}.{alias.name}" for alias in node.names if alias.name != "__version__"}
            found |= {one if one in MODULES else source for one in named}
    return found & set(MODULES)


def room_of(module: str) -> str:
    """Return the room of a module. Each small module of the root package counts as a room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "tokenloom"


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_one_way(room):
    for path in paths(room):
        if room == "tokenloom" and ("cli" in path.parts or path.name in FRONT_DOOR):
            continue
        stray = {room_of(module) for module in imports(path)} - MAY_IMPORT[room]
        assert not stray, f"{path.relative_to(ROOT)} imports {sorted(stray)}"


def test_imports_finds_the_imports_of_known_modules():
    assert {room_of(module) for module in imports(ROOT / "train" / "tasks" / "codec.py")} >= {"codecs", "data", "train"}
    assert {room_of(module) for module in imports(ROOT / "models" / "checkpoint.py")} >= {"codecs", "models"}
    assert "tokenloom.codecs.types" in imports(ROOT / "codecs" / "rate.py")


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle, or an empty list."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circle_of_imports():
    """Within a room, too. A package and its own modules count as different files."""
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}
    assert not circle(graph)
    upward = {"tokenloom.codecs.types": graph["tokenloom.codecs.types"] | {"tokenloom.codecs.codec"}}
    assert {"tokenloom.codecs.types", "tokenloom.codecs.codec"} <= set(circle(graph | upward)), "the check finds one"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_imports_stand_at_the_head():
    """There are few exceptions, and each has its reason in a comment."""
    inside, lines = [], 0
    for path, tree in TREES.items():
        text = path.read_text(encoding="utf-8").splitlines()
        lines += len(text)
        nodes = {n for f in functions(tree) for n in ast.walk(f) if isinstance(n, ast.Import | ast.ImportFrom)}
        for node in nodes:
            inside.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            reason = text[node.lineno - 2 : node.end_lineno]
            assert any("#" in line for line in reason), f"{inside[-1]} imports inside a function without a reason"
    assert len(inside) <= ALLOWED * lines / 1000, inside


def test_sizes():
    """At most 400 lines per file (median 110), 60 lines per function and 15 files per folder."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in TREES}
    assert statistics.median(lengths.values()) <= 110
    assert not [str(path.relative_to(ROOT)) for path, count in lengths.items() if count > 400]
    long = [(path.relative_to(ROOT), f.name) for path, tree in TREES.items() for f in functions(tree)
            if f.end_lineno - f.lineno >= 60]  # fmt: skip
    assert not long
    folders = {path.parent for path in TREES}
    assert not [folder for folder in folders if sum(path.parent == folder for path in TREES) > 15]


def test_constructors_have_at_most_ten_parameters():
    wide = [f"{path.relative_to(ROOT)}:{f.lineno}" for path, tree in TREES.items() for f in functions(tree)
            if f.name == "__init__" and len(f.args.args) + len(f.args.kwonlyargs) > 11]  # fmt: skip
    assert not wide


def test_public_class_names_are_unique():
    owners: dict[str, list[str]] = {}
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                owners.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: files for name, files in owners.items() if len(files) > 1}


def test_public_names_of_the_core_have_docstrings():
    for module in ("codecs.types", "codecs.codec", "codecs.registry", "codecs.checkpoint", "codecs.rate"):
        tree = TREES[MODULES[f"tokenloom.{module}"]]
        assert ast.get_docstring(tree)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name}"


def test_no_module_has_a_name_without_a_subject():
    assert not [path for path in TREES if path.stem in ("utils", "util", "helpers", "misc", "common")]
