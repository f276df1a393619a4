"""Programs that tests run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1]


def start(program: str, *arguments: str | Path, processes: int = 1, **options) -> subprocess.Popen:
    """Start a Python program, under torchrun if it has several processes. It can import from tests/ and tests/train."""
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    path = Path(arguments[0]) / "program.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"import sys\nimport torch\ntorch.set_num_threads(1)\n{program}")
    return subprocess.Popen(
        [sys.executable, *(torchrun if processes > 1 else []), str(path), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options,
    )  # fmt: skip


def environment() -> dict[str, str]:
    """Return the environment of `start`: one thread, and tests/ and tests/train on the path."""
    folders = [str(TESTS), str(TESTS / "train"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def finish(process: subprocess.Popen) -> str:
    try:
        out, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return out


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the mean absolute difference over all tensors of two states."""
    return torch.cat([(a[name].double() - b[name].double()).abs().flatten() for name in a]).mean().item()
