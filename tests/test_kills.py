"""Kills and pairs of writers: a short version of `python tests/support/kills.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "support" / "kills.py"


@pytest.mark.parametrize("command", ["train", "tokenize", "compare", "encode"])
def test_nothing_is_lost_or_mixed(command):
    """In a process of its own: a fork of one whose threads have computed may hang."""
    done = subprocess.run(
        [sys.executable, KILLS, command, "--count", "3", "--pairs", "1"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'killed': 3" in done.stdout and "'one " in done.stdout
