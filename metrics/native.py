"""Metrics of native code, computed in one child process so that a crash or a hang costs one value only."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenloom.native import ChildProcess

from .errors import Unmeasurable

PROGRAM = Path(__file__).with_name("native_child.py")
PATIENCE, SLOWEST = 60.0, 10.0
"""Seconds until a child without an answer is ended, and those for each second of sound on top."""


class NativeError(Exception):
    """An error of the library. `kind` is the name of its type."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.message = kind, message


class _Child(ChildProcess):
    """The child process that computes metrics."""

    def __init__(self) -> None:
        super().__init__(PROGRAM)
        self._lock = threading.Lock()

    def call(self, function: str, waves: tuple[Tensor, ...], seconds: float, settings: dict[str, Any]) -> Any:
        with self._lock:
            process, late, limit = self.running(), threading.Event(), PATIENCE + SLOWEST * seconds
            timer = threading.Timer(limit, lambda: (late.set(), process.kill()))
            timer.start()
            try:
                request = {"function": function, "samples": [len(wave) for wave in waves], "settings": settings}
                reply = _exchange(process, request, *waves)
                status = 0 if reply else process.wait()
            except BaseException:  # Ctrl-C: the answer to this call must not be taken for that to the next
                process.kill()
                raise
            finally:
                timer.cancel()
        if not reply:
            ending = f"gave no answer in {limit:.3g} s" if late.is_set() else f"died: {_ending(status)}"
            raise Unmeasurable(f"the process of {function.upper()} {ending}")
        answer = json.loads(reply)
        if "error" in answer:
            raise NativeError(answer["error"], answer["message"])
        return answer["value"]


_child = _Child()


def call(function: str, *waves: Tensor, rate: int, **settings: Any) -> Any:
    """Return the value of a function of native_child.py for waveforms, float32 (samples,) at `rate` Hz.

    Raises:
        NativeError: If the library raises an error.
        Unmeasurable: If the process dies, or does not answer in time.
    """
    return _child.call(function, waves, len(waves[0]) / rate, {"rate": rate, **settings})


def _exchange(process: subprocess.Popen[bytes], request: dict[str, Any], *waves: Tensor) -> bytes:
    """Return the line of the reply; b"" if the process has died."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        for wave in waves:
            process.stdin.write(wave.contiguous().cpu().numpy().tobytes())
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()


def _ending(status: int) -> str:
    return signal.strsignal(-status) or f"signal {-status}" if status < 0 else f"exit status {status}"
