"""Record of the environment of a measurement or of a training run."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "tokenloom", "torch", "numpy", "pillow", "soundfile", "soxr", "tokenizers", "constriction", "torchaudio",
    "torchmetrics", "pytorch-msssim", "lpips", "pystoi", "pesq", "bjontegaard",
)  # fmt: skip


command: list[str] = []
"""Words of the running command, which the command line sets; empty in a program."""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@dataclass(kw_only=True)
class Environment:
    """Command, date, machine and versions, to repeat a measurement. Defaults describe the running process."""

    command: str = field(default_factory=lambda: shlex.join(command or [Path(sys.argv[0]).name, *sys.argv[1:]]))
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    python: str = field(default_factory=platform.python_version)
    machine: str = field(default_factory=lambda: f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    threads: int = field(default_factory=torch.get_num_threads)
    """Number of threads of PyTorch."""
    device: str = ""
    """Device of the networks; "" in older files."""
    versions: dict[str, str] = field(default_factory=lambda: {package: _version(package) for package in PACKAGES})
    seed: int
    seconds: float
    """Wall time of the whole run."""


def now() -> str:
    """Return the time as "2026-11-29 04:00:00 UTC"."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def revision(folder: Path) -> str | None:
    """Return the Git commit of the work tree around a folder, with "-dirty" after it if files have changed.

    None without a commit, or without Git.
    """
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
