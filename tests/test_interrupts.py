"""A command that is told to end stops as at Ctrl-C; a child and a run under nohup do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tokenloom import interrupts


@pytest.mark.parametrize("number", interrupts.ENDING)
def test_a_signal_is_ctrl_c_inside_the_block(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interrupts.terminable():
        os.kill(os.getpid(), number)
        signal.pause()
    assert signal.getsignal(number) is before


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.terminable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_child_ends_without_a_word():
    program = """
import os, signal
from tokenloom import interrupts
with interrupts.terminable():
    if (child := os.fork()) == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
