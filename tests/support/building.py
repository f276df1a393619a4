"""The source distribution and the wheel of the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(out: Path) -> tuple[Path, Path]:
    """Build the source distribution, and from it the wheel, in a copy of the tree. Return their paths."""
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "docs", "benchmarks", "multirun", "site"
    )
    shutil.copytree(ROOT, out / "tree", ignore=ignored, symlinks=True)
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", program, str(out)]
    subprocess.run(command, check=True, timeout=600, cwd=out / "tree", capture_output=True)
    (sdist,) = out.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "-w", str(out), str(sdist)]
    subprocess.run(pip, check=True, timeout=600, cwd=out)
    (wheel,) = out.glob("*.whl")
    return sdist, wheel
