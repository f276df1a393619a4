"""Plant faults in a module, one at a time, and print those that its tests do not notice.

    python tests/support/mutants.py codecs/rate.py tests/codecs/test_rate.py --count 40 --seed 0

The faults are planted in a copy of the tree. A test that fails or runs too long notices the fault.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "outputs", "runs", "site")
HEAVY = [
    "torch", "hypothesis", "beartype", "jaxtyping", "safetensors.torch", "scipy.stats", "PIL.Image", "omegaconf",
    "vector_quantize_pytorch", "bjontegaard",
]  # fmt: skip
"""Modules that are imported once for all runs of the tests."""
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
}  # fmt: skip
REMOVABLE = (ast.AugAssign, ast.Raise, ast.If, ast.Continue, ast.Break, ast.Delete)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree without annotations, f-strings and `strict=True`.

    Python 3.11 has no positions inside f-strings. `strict=True` is an assertion: no input of a right program meets it.
    """
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in ("annotation", "returns"):
                asserts = isinstance(child, ast.keyword) and ast.unparse(child) == "strict=True"
                yield from () if asserts or isinstance(child, ast.JoinedStr) else walk(child)


def changes(node: ast.AST) -> Iterator[str]:
    """Yield the source of every fault that can be planted in a node."""
    if isinstance(node, ast.Compare) and (swap := SWAPS.get(type(node.ops[0]))):
        yield ast.unparse(ast.Compare(node.left, [swap(), *node.ops[1:]], node.comparators))
    elif isinstance(node, ast.BinOp) and (swap := SWAPS.get(type(node.op))):
        yield ast.unparse(ast.BinOp(node.left, swap(), node.right))
    elif isinstance(node, ast.BoolOp):
        yield ast.unparse(ast.BoolOp(SWAPS[type(node.op)](), node.values))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield from (repr(node.value + step) for step in (1, -1))
    called = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    stored = isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name)
    if called or stored or isinstance(node, REMOVABLE):
        yield "pass"


def mutants(source: str) -> Iterator[str]:
    """Yield the source of a module with each fault."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in walk(ast.parse(source)):
        for change in changes(node):
            begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            mutant = (source.encode()[:begin] + change.encode() + source.encode()[end:]).decode()
            with contextlib.suppress(SyntaxError):  # such as an elif that is removed
                ast.parse(mutant)
                yield mutant


def run(tree: str, tests: list[str], timeout: float | None) -> None:
    """Run the tests of a tree in this process, and end it with the status of pytest."""
    os.setsid()
    if timeout is not None:  # a fault may loop forever, and this process may outlive a killed tester
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(2 * timeout),) * 2)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = tree
    sys.path[0] = tree  # in place of the folder of this script
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def noticed(tree: str, tests: list[str], timeout: float | None) -> bool:
    """Return whether the tests fail or take longer than `timeout` seconds."""
    process = multiprocessing.get_context("forkserver").Process(target=run, args=(tree, tests, timeout))
    process.start()
    process.join(timeout)
    late = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return late or process.exitcode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="path of the module, from the root of the repository")
    parser.add_argument("tests", nargs="+", help="arguments of pytest: its test files, the fastest first")
    parser.add_argument("-k", default="", help="expression of pytest that selects tests")
    parser.add_argument("--count", type=int, default=40, help="largest number of faults, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tests = [*given.tests, "-k", given.k]
    source = (ROOT / given.module).read_text("utf-8")
    drawn = list(dict.fromkeys(mutants(source)))
    random.Random(given.seed).shuffle(drawn)
    drawn = drawn[: given.count]
    multiprocessing.get_context("forkserver").set_forkserver_preload(HEAVY)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, symlinks=True, ignore=LEFT_OUT)
        module, caught, began = tree / given.module, 0, time.monotonic()
        if noticed(str(tree), tests, None):
            parser.error("the tests must pass without a fault")
        timeout = 20 + 3 * (time.monotonic() - began)
        for mutant in drawn:
            module.write_text(mutant, "utf-8")
            for stale in module.parent.glob(f"__pycache__/{module.stem}.*"):
                stale.unlink()
            if noticed(str(tree), tests, timeout):
                caught += 1
                continue
            lines = list(difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=0, lineterm=""))[2:]
            print(f"{given.module}:{lines[0].split()[1][1:].split(',')[0]}", *lines[1:], sep="\n", flush=True)
    print(f"{given.module}: {caught} of {len(drawn)} faults noticed")


if __name__ == "__main__":
    main()
