"""Who computes the shards of a job: this process, several, or a Ray cluster. All write the same bytes."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from .job import Job, Step

    Events = Iterator[Step | dict[str, Any]]
    """Steps of progress, and the report of each shard once it is in place."""


class Engine(NamedTuple):
    """`run(job, numbers of shards, workers)`; `needs` is a package that has to be there, and its extra."""

    run: Callable[[Job, Sequence[int], int | None], Events]
    needs: tuple[str, str] | None = None


def local(job: Job, numbers: Sequence[int], workers: int | None) -> Events:
    """Shards by `workers` processes, 0: by this one; None: one for each core, as far as there are shards."""
    if workers is None:
        workers = min(cores(), len(numbers))
        workers = 0 if workers < 2 else workers
    return _processes(job, numbers, min(workers, len(numbers))) if workers else _here(job, numbers)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(job: Job, numbers: Sequence[int]) -> Events:
    with one_thread():
        codec = job.open()
        for number in numbers:
            yield from job.shard(codec, number)


@contextmanager
def one_thread() -> Iterator[None]:
    """As every worker computes: the order of a sum, and with it a code at a tie, can depend on the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processes(job: Job, numbers: Sequence[int], workers: int) -> Events:
    """Each process has a pipe: numbers of shards go in, events come out, and its end is seen at once."""
    context = torch.multiprocessing.get_context("spawn")  # a fork after OpenMP has run may hang
    todo = iter(numbers)
    pipes: dict[Connection, Any] = {}
    with _uninterrupted():
        for _ in range(workers):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(job, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes[pipe] = process
    try:
        for pipe in pipes:
            _give(pipe, next(todo, None))
        while pipes:
            for pipe in wait(list(pipes)):
                try:
                    event = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process = pipes.pop(pipe)
                    process.join()
                    if process.exitcode:
                        raise ChildProcessError(_died(process.exitcode)) from None
                    continue
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, dict):
                    _give(pipe, next(todo, None))
                yield event
    finally:
        for process in pipes.values():
            process.terminate()
        for process in pipes.values():
            process.join()


def _give(pipe: Connection, number: int | None) -> None:
    with suppress(BrokenPipeError):  # it has died, which its pipe says when it is read
        pipe.send(number)


def _died(code: int) -> str:
    why = f"was killed by signal {-code} (9 is often a lack of memory)" if code < 0 else f"ended with status {code}"
    return f"a worker {why}; the same command goes on with the first missing shard"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is started within ignores Ctrl-C, which a terminal sends to all: who started it ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(job: Job, pipe: Connection) -> None:
    """A worker: shards by number until there are no more."""
    try:
        torch.set_num_threads(1)
        codec = job.open()
        for number in iter(pipe.recv, None):
            for event in job.shard(codec, number):
                pipe.send(event)
    except (ConnectionError, EOFError):  # who asked has gone
        return
    except Exception as error:
        pipe.send(portable(error))


def portable(error: Exception) -> Exception:
    """An exception as it can cross to another process: what a person can change as itself, a bug with its traceback."""
    if isinstance(error, OSError) and error.strerror:
        return ValueError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    if isinstance(error, ValueError | OSError):
        return ValueError(" ".join(str(error).split()))
    return RuntimeError("".join(traceback.format_exception(error)))


# -- Ray ----------------------------------------------------------------------------------------


def on_ray(job: Job, numbers: Sequence[int], workers: int | None) -> Events:
    """Shards by Ray Data: on the cluster of RAY_ADDRESS, or of this process, else on this machine.

    workers  actors at most; None: one for each CPU, or GPU where `device` is one
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # it calls routine errors; exceptions come to us all the same
    import ray
    import ray.data

    mine = not ray.is_initialized()
    if mine:
        address = os.environ.get("RAY_ADDRESS")
        alone = {} if address else {"include_dashboard": False, "num_cpus": workers or None}
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **alone)
    try:
        yield from _ray_data(job, numbers, workers)
    finally:
        if mine:
            ray.shutdown()


def _ray_data(job: Job, numbers: Sequence[int], workers: int | None) -> Events:
    import ray

    from .job import Step

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    kind = "CPU" if job.device == "cpu" else "GPU"
    have = int(ray.cluster_resources().get(kind, 0))
    if not have:
        raise ValueError(f"device={job.device}: this Ray cluster has no {kind}")
    actors = min(workers or have, have, len(numbers))
    shards = ray.data.from_items([{"shard": n} for n in numbers], override_num_blocks=len(numbers))
    done = shards.map(
        _Actor,
        fn_constructor_args=(job, os.getcwd()),
        concurrency=(1, actors),
        num_cpus=1,
        num_gpus=int(kind == "GPU"),
    )
    for row in done.iter_rows():
        if row["error"]:
            raise (RuntimeError if row["bug"] else ValueError)(row["error"])
        report = json.loads(row["report"])
        yield Step(len(job.range(report["number"])), report["tokens"])
        yield report


class _Actor:
    """A worker of Ray Data. What goes wrong is a row, too: Ray would wrap it in its own words."""

    def __init__(self, job: Job, folder: str) -> None:
        self.job, self.folder, self.codec = job, folder, None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self.codec is None:
                os.chdir(self.folder)  # relative paths are those of who asked
                torch.set_num_threads(1)
                self.codec = self.job.open()
            *_, report = self.job.shard(self.codec, int(row["shard"]))
        except Exception as error:
            crossed = portable(error)
            return {"report": "", "error": str(crossed), "bug": isinstance(crossed, RuntimeError)}
        return {"report": json.dumps(report), "error": "", "bug": False}


ENGINES = {"local": Engine(local), "ray": Engine(on_ray, ("ray", "ray"))}
