"""SIGINT, SIGTERM and SIGHUP: a run finishes its step and saves before it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from tokenloom import interrupts

REPEAT_SECONDS = 3
"""A Ctrl-C this long after the first signal ends the run at once. An earlier one is the first, passed on."""


class Interrupts:
    """Receives the signals of a run. `number` is that of the first one, 0 before it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.number = 0
        self._time = 0.0
        self._process = os.getpid()

    @contextmanager
    def handle(self) -> Iterator[None]:
        """Receive the signals inside the block."""
        with interrupts.handled((signal.SIGINT, *interrupts.ENDING), self._receive):
            yield

    def stop(self, fabric: Any) -> bool:
        """Return whether any process was interrupted, so that all stop at the same step."""
        if fabric.world_size > 1:
            number = fabric.all_reduce(torch.tensor(self.number, device=fabric.device), reduce_op="max")
            if number and not self.number:
                self.number, self._time = int(number), time.monotonic()
        return bool(self.number)

    def _receive(self, number: int, _frame: Any) -> None:
        if self.number:  # torchrun passes SIGTERM on, again and late; whoever loses patience sends SIGKILL
            if number == signal.SIGINT and time.monotonic() > self._time + REPEAT_SECONDS:
                raise KeyboardInterrupt
            return
        self.number, self._time = number, time.monotonic()
        if os.getpid() == self._process:  # a data worker says nothing, and works until the step is done
            with suppress(RuntimeError):  # the signal came while this thread was printing, which goes on instead
                self.say(f"{signal.Signals(number).name}: finishing this step, then saving (Ctrl-C to quit at once)")
