"""The engine `local`: this process or several on this machine write the shards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from tokenloom import threads

from .job import Events, ShardJob


def run(job: ShardJob, numbers: Sequence[int], workers: int | None) -> Events:
    """Write shards in `workers` processes. 0: this process. None: one process per core, at most one per shard."""
    if workers is None:
        workers = min(_cores(), len(numbers))
        workers = 0 if workers < 2 else workers
    return _processes(job, numbers, min(workers, len(numbers))) if workers else _here(job, numbers)


def portable(error: Exception) -> Exception:
    """Return an exception for another process: ValueError in one line for a user's error, else with the traceback."""
    if isinstance(error, OSError) and error.strerror:
        return ValueError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    if isinstance(error, ValueError | OSError):
        return ValueError(" ".join(str(error).split()))
    return RuntimeError("".join(traceback.format_exception(error)))


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(job: ShardJob, numbers: Sequence[int]) -> Events:
    with threads.limit(1):  # as in workers: threads can change the order of a sum, and thus a code at a tie
        encoder = job.encoder.open()
        for number in numbers:
            yield from job.shard(encoder, number)


def _processes(job: ShardJob, numbers: Sequence[int], workers: int) -> Events:
    """Write shards in several processes. Each has a pipe that receives numbers of shards and sends events."""
    context = torch.multiprocessing.get_context("spawn")  # a fork after OpenMP has run may hang
    waiting = iter(numbers)
    pipes: dict[Connection, Any] = {}
    with _ignore_interrupts():
        for _ in range(workers):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(job, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes[pipe] = process
    try:
        for pipe in pipes:
            _send(pipe, next(waiting, None))
        while pipes:
            for pipe in wait(list(pipes)):
                try:
                    event = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process = pipes.pop(pipe)
                    process.join()
                    if process.exitcode:
                        raise ChildProcessError(_describe_exit(process.exitcode)) from None
                    continue
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, dict):
                    _send(pipe, next(waiting, None))
                yield event
    finally:
        for process in pipes.values():
            process.terminate()
        for process in pipes.values():
            process.join()


def _send(pipe: Connection, number: int | None) -> None:
    with suppress(BrokenPipeError):  # the process is dead; the next read of the pipe reports it
        pipe.send(number)


def _describe_exit(code: int) -> str:
    end = f"was killed by signal {-code} (9 is often a lack of memory)" if code < 0 else f"ended with status {code}"
    return f"a worker {end}; the same command continues with the first missing shard"


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Processes that start inside the block ignore Ctrl-C. A terminal sends it to all; this process ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """End this process when its parent is killed, since another run may then begin in the folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _serve(job: ShardJob, pipe: Connection) -> None:
    """Write shards by number until None is received."""
    try:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        torch.set_num_threads(1)
        encoder = job.encoder.open()
        for number in iter(pipe.recv, None):
            for event in job.shard(encoder, number):
                pipe.send(event)
    except (ConnectionError, EOFError):  # the parent process is gone
        return
    except Exception as error:
        pipe.send(portable(error))
