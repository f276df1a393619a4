"""Processes that share the tasks of a comparison.

A comparison starts in its own process. Once the remaining tasks are worth it, a process for each core takes over, with
one thread each, so that neither figures nor times depend on their number. A process has one task at a time: what a
crash costs is known.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import torch

from tokenloom import memory
from tokenloom.metrics.speech.recognizers import Recognizer

from ..entries import CodecEntry
from .tasks import Outcome, Task, failed

WORTH = 25.0
"""Seconds of remaining work in one process from which on several are started. Their start takes about 5 s."""
FOOTPRINT = 2**30
"""Memory of a process, without that of large signals."""
PROGRAM = "import sys; sys.path[:] = {path!r}; from tokenloom.eval.compare.processes import worker; worker.main({fd})"
MEANT = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""Signals that end a process from outside. Others come from a crash."""


@dataclass(frozen=True)
class Briefing:
    """What a process needs to know. All of it can be pickled."""

    imports: tuple[str, ...]
    """The user's own files."""
    sources: tuple[Any, ...]
    """What each codec was loaded from."""
    identities: Mapping[str, str]
    protocols: tuple[tuple[str, tuple[str, ...]], ...]
    """Name of each protocol, and of its metrics."""
    recognizer: Recognizer
    absent: dict[str, str]
    targets: tuple[str, ...] | None
    folder: Path


class Refused(str):
    """Reason why a process cannot do a task: it does not have the codec of the first process."""


class Pool:
    """Hands out tasks, and takes in their outcomes in any order.

    Args:
        briefing: What the processes need to know.
        begin: Is told of each task just before it begins.
        here: Performs a task in this process.
        keep: Receives a task and its outcome, in this process.
        entries: The codecs.
        processes: Most processes.
    """

    def __init__(
        self, briefing: Callable[[], Briefing], begin: Callable[[Task], None], here: Callable[[Task], Outcome],
        keep: Callable[[Task, Outcome], None], entries: Sequence[CodecEntry], processes: int,
    ) -> None:  # fmt: skip
        self.briefing, self.begin, self.here, self.keep, self.entries = briefing, begin, here, keep, entries
        self.local = {place for place, entry in enumerate(entries) if entry.source is None}
        """Places of the codecs that only this process has."""
        self.most, self.workers = processes, []
        self.used = 1
        """Number of processes that have worked at once."""
        self._spent, self._done = 0.0, 0

    def submit(self, task: Task, remaining: int) -> None:
        """Have a task performed, here or by another process. Return when a process has taken it.

        Args:
            task: The task.
            remaining: Number of tasks that are left, for the decision how many processes to use.
        """
        local = task.place in self.local
        worth = self._done and self._spent / self._done * remaining > WORTH
        if not self.workers and self.most > 1 and worth and not local:
            self._start(remaining)
        if self.workers and not local and not self._large(task):
            worker = self._idle()
            self.begin(task)
            worker.give(task)
            return
        self.drain()
        self.begin(task)
        start = time.perf_counter()
        outcome = self.here(task)
        self._spent, self._done = self._spent + time.perf_counter() - start, self._done + 1
        self.keep(task, outcome)

    def drain(self) -> None:
        """Wait for the outcomes of all tasks."""
        while any(worker.task for worker in self.workers):
            self._receive()

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.end()
        self.workers = []

    def _start(self, remaining: int) -> None:
        room = memory.limit(torch.device("cpu")) // FOOTPRINT
        if (count := min(self.most, remaining, room)) > 1:
            self._hire(count)
        self.used = max(self.used, len(self.workers))

    def _hire(self, count: int) -> None:
        """Start processes. If that fails, this process does the rest."""
        briefing = self.briefing()
        try:
            fresh = [Worker(briefing) for _ in range(count)]  # all start at the same time
            self.workers += fresh
            for worker in fresh:
                worker.answer()
        except (EOFError, OSError):
            self.drain()
            self.close()
            self.most = 1
            warnings.warn("the comparison goes on in one process, since others could not start", stacklevel=2)

    def _large(self, task: Task) -> bool:
        """Whether as many signals of this size as there are processes exceed the memory."""
        signal = task.item.signal
        if isinstance(signal, str) or signal.numel() <= memory.SMALL:
            return False
        codec = self.entries[task.place].codec_for(task.item)
        needed = codec.working_memory(tuple(signal.shape[1:])) * len(self.workers)
        return needed > memory.limit(torch.device("cpu"))

    def _idle(self) -> Worker:
        while True:
            for worker in self.workers:
                if worker.task is None:
                    return worker
            self._receive()

    def _receive(self) -> None:
        """Take in the next outcomes."""
        busy = {worker.connection: worker for worker in self.workers if worker.task}
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            task = worker.task
            assert task is not None
            try:
                outcome = worker.answer()
            except (EOFError, ConnectionError):
                outcome = failed(task)
                status = worker.end()
                if -status in MEANT:
                    raise OSError(
                        "a process of the comparison was killed, perhaps since memory ran out; the same command goes on"
                    ) from None
                self.workers.remove(worker)
                self._hire(1)
            if isinstance(outcome, BaseException):
                raise outcome
            if isinstance(outcome, Refused):
                self.local.add(task.place)
                outcome = self.here(task)
            for message in outcome.warned:
                warnings.warn(message, stacklevel=2)
            self.keep(task, outcome)


class Worker:
    """A process that performs tasks one at a time; see worker.py."""

    def __init__(self, briefing: Briefing) -> None:
        self.connection, theirs = Pipe()
        program = PROGRAM.format(path=sys.path, fd=theirs.fileno())
        single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            env={**os.environ, **single},
        )  # fmt: skip
        theirs.close()
        self.task: Task | None = None
        send(self.connection, briefing)

    def give(self, task: Task) -> None:
        self.task = task
        send(self.connection, task)

    def answer(self) -> Any:
        """Wait for the answer to the task. Raises EOFError if the process has ended."""
        self.task, answer = None, receive(self.connection)
        return answer

    def end(self) -> int:
        """End the process, and return its exit status."""
        status = self.process.poll()
        self.process.kill()
        self.connection.close()
        return self.process.wait() if status is None else status


def send(connection: Connection, value: Any) -> None:
    """Send a value. `Connection.send` would put tensors into shared memory, which only a child by fork can open."""
    connection.send_bytes(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


def cores() -> int:
    """Return the number of processors that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return 1 if os.name == "nt" else os.cpu_count() or 1  # Windows hands no pipe to a new process
    return len(os.sched_getaffinity(0))
