"""Kills and pairs of writers: a short version of `python tests/support/kills.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "support" / "kills.py"


@pytest.mark.parametrize(
    ("trials", "said"),
    [(("--count", "4"), r"'killed': 4\b"), (("--pairs", "--count", "2"), r"'one (refused|after the other)'")],
)
def test_nothing_is_lost_or_mixed(trials, said):
    """In a process of its own: a fork of one whose threads have computed may hang."""
    names = ["train", "tokenize", "compare", "encode"]
    done = subprocess.run(
        [sys.executable, KILLS, *names, *trials], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == names and all(re.search(said, line) for line in lines)
