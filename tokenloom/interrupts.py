"""SIGTERM and SIGHUP as Ctrl-C, so that commands that are told to end leave what they have."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals of a scheduler, a shutdown or a terminal that closes."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block when the process is told to end."""

    process = os.getpid()

    def interrupt(number: int, _: Any) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a forked child ends as usual
        os.kill(os.getpid(), number)

    with handled(ENDING, interrupt):
        yield


@contextmanager
def handled(numbers: tuple[signal.Signals, ...], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Receive signals inside the block. Only the main thread can; others ignore them.

    A SIGHUP that is ignored, as under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = tuple(n for n in numbers if n is not signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before or signal.SIG_DFL)  # None: a handler of C
