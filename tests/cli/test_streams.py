"""Terminals that do not have a character, closed streams, readers that have left, and full disks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from tokenloom.cli.streams import tolerant
with tolerant():
    for i in range(int(sys.argv[1])):
        print("naïve … → 長 \\udcff")
    print("done", file=sys.stderr)
open("finished", "w").close()
"""


def shell(command: str, **variables: str) -> tuple[int, bytes, bytes]:
    """Run a shell command in which PRINT stands for the script above, followed by a number of lines."""
    command = command.replace("PRINT", f"{sys.executable} -c '{SCRIPT}'")
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, env={**os.environ, **variables})
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("utf-8", "naïve … → 長 ".encode() + b"\xff\n"),
        ("ascii", rb"na\xefve ... -> \u9577 " + b"\xff\n"),
        ("latin-1", b"na\xefve ... -> \\u9577 \xff\n"),
        ("cp932", rb"na\xefve " + "… → 長 ".encode("cp932") + b"\xff\n"),
    ],
)
def test_what_a_terminal_does_not_have_is_replaced(encoding, line):
    assert shell("PRINT 1", PYTHONIOENCODING=encoding) == (0, line, b"done\n")


@pytest.mark.parametrize("command", ["PRINT 1 >&-", "PRINT 20000 | head -1 >/dev/null", "PRINT 1 <&- >&- 2>&-"])
def test_without_a_reader_the_work_goes_on(command):
    status, out, err = shell(f"set -o pipefail; {command}")
    assert (status, out) == (0, b"") and err in (b"done\n", b"") and os.path.exists("finished")


def test_a_full_disk_under_the_output_is_said():
    status, _, err = shell(f"{sys.executable} -m tokenloom --version; {sys.executable} -m tokenloom nosuch >/dev/full")
    assert status == 2 and err.startswith(b"tokenloom: ")
    status, _, err = shell("PRINT 1 >/dev/full")
    assert status == 1 and err.endswith(b"OSError: [Errno 28] No space left on device: 'standard output'\n")
    assert not os.path.exists("finished")
