"""One run a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tokenloom.lock import locked

HOLD = """
import os, sys, time
from pathlib import Path
from tokenloom.lock import locked
with locked(Path(sys.argv[1])):
    if not os.fork():
        print(os.getppid(), flush=True)
        time.sleep(5)  # a worker that outlives its parent
        os._exit(0)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_ends(tmp_path):
    with locked(tmp_path / "run"):
        message = f"run is in use by another run .process {os.getpid()}."
        with pytest.raises(ValueError, match=message), locked(tmp_path / "run"):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "run"):
        pass
    assert not os.listdir(tmp_path / "run")


def test_a_killed_run_leaves_no_lock(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    with pytest.raises(ValueError, match=f"process {pid}"), locked(tmp_path):
        pass
    run.kill()
    run.wait()
    with locked(tmp_path):  # although the worker lives
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_folder_that_another_run_removes_is_made_again(tmp_path, monkeypatch):
    """The first run fails and removes its empty folder just before the second one locks it."""
    folder, mkdir, times = tmp_path / "run", Path.mkdir, []

    def removed(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        times.append(path)
        if len(times) == 1:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", removed)
    with locked(folder):
        assert (folder / ".lock").exists()
    assert times == [folder, folder]


def test_a_lock_removes_what_a_killed_run_left(tmp_path):
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        (folder / ".0123456789abcdef.part").write_text("cut")
    with locked(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".lock", "below"] and not os.listdir(tmp_path / "below")


def test_waiting_for_the_other_run(tmp_path):
    order = []

    def second():
        with locked(tmp_path, wait=True):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and not os.listdir(tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="file system without locks"), locked(tmp_path):
        pass
