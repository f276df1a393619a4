"""A process of a comparison: it loads each codec once, and performs tasks until the first process closes the pipe."""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from multiprocessing.connection import Connection
from typing import Any

import torch

from tokenloom import own_code
from tokenloom.errors import describe

from ...metric import Protocol
from ...protocols import protocol
from ..entries import CodecEntry, load_entries
from ..measurement import CodecMeasurement
from ..targets import TargetSearch, targets_of
from .pool import Briefing, Refused, receive, send
from .tasks import Outcome, Performer, Task


class Bench:
    """The codec of the tasks, and its measurements. A comparison goes from codec to codec, so one is kept."""

    def __init__(self, briefing: Briefing) -> None:
        self.briefing, self.performer = briefing, Performer(briefing.folder)
        self.place, self.entry = -1, None
        self.measurements: dict[int, CodecMeasurement] = {}
        own_code.load(briefing.imports)

    def perform(self, task: Task) -> Outcome | Refused:
        """Perform a task, or refuse all tasks of a codec that is another one here."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            try:
                entry = self._open(task)
            except Exception as error:  # what defines the codec may be known to the first process alone
                return Refused(describe(error))
            if task.number is None:
                search = TargetSearch(entry, targets_of(entry, self.briefing.targets))
                outcome = self.performer.curve(task, search)
            else:
                outcome = self.performer.trial(task, self._measurement(entry, task))
        outcome.warned = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
        return outcome

    def _open(self, task: Task) -> CodecEntry:
        if self.place != task.place or self.entry is None:
            self.entry, self.measurements, self.place = None, {}, task.place
            (entry,) = load_entries([self.briefing.sources[task.place]], "cpu")
            entry.label = task.label
            if entry.identity() != self.briefing.identities[task.label]:
                raise ValueError(f"{task.label} is another codec here")
            self._protocol(entry)
            entry.adapt(task.item)
            self.entry = entry
        return self.entry

    def _protocol(self, entry: CodecEntry) -> Protocol:
        for name, metrics in self.briefing.protocols:
            found = protocol(name, self.briefing.recognizer)
            if found.modality is entry.modality:
                if tuple(metric.name for metric in found.metrics) != metrics:
                    raise ValueError(f"{name} has other metrics here")
                return found
        raise ValueError(f"no protocol for {entry.modality}")

    def _measurement(self, entry: CodecEntry, task: Task) -> CodecMeasurement:
        assert task.number is not None
        if task.number not in self.measurements:
            self.measurements[task.number] = CodecMeasurement(
                entry, task.setting, self._protocol(entry), self.briefing.absent
            )
        return self.measurements[task.number]


def main(fd: int) -> None:
    """Answer the tasks that come through a pipe. Signals are for the first process, which then closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(2, 1)  # libraries print to standard output
    torch.set_num_threads(1)
    with Connection(fd) as connection:
        try:
            bench = Bench(receive(connection))
            send(connection, None)
            while True:
                _answer(connection, bench, receive(connection))
        except (EOFError, ConnectionError):
            return


def _answer(connection: Connection, bench: Bench, task: Task) -> None:
    try:
        answer: Any = bench.perform(task)
    except BaseException as error:  # raised again in the first process
        answer = error
    try:
        data = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
        pickle.loads(data)
    except Exception:  # an error that cannot be pickled
        answer = RuntimeError(describe(answer))
    send(connection, answer)
