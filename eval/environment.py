"""Record of the environment of a measurement."""

from __future__ import annotations

import os
import platform
import shlex
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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@dataclass(kw_only=True)
class Environment:
    """Command, date, machine and versions, to repeat a measurement. Defaults describe the running process."""

    command: str = field(default_factory=lambda: shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
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
