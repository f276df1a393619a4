"""Program of the child process that computes metrics of native code; see native.py. It does not import torch.

A request is a line of JSON and the samples of two waveforms (float32). A reply is a line of JSON.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import sys
import warnings
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

UTTERANCES = 50
"""Size of the tables of utterances in the C code of PESQ, which does not check it."""
SHORTEST = 0.4
"""Shortest time in seconds from one utterance to the next: PESQ joins utterances less than 0.2 s apart, and ignores
those shorter than 0.2 s."""


def pesq(x: np.ndarray, y: np.ndarray, *, rate: int, mode: str) -> float:
    """Return PESQ. Raises ValueError if the signal has more utterances than the code has room for."""
    package = import_module("pesq")
    if len(x) > UTTERANCES * SHORTEST * rate and (count := _utterances(x.tobytes(), rate, mode)) >= UTTERANCES:
        raise ValueError(f"the code of PESQ has room for fewer than {UTTERANCES} utterances, got {count}")
    try:
        return float(package.pesq(rate, x, y, mode))
    except package.PesqError as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from error


def stoi(x: np.ndarray, y: np.ndarray, *, rate: int, extended: bool) -> float:
    """Return STOI. Raises RuntimeWarning if the signal has too little speech."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # with too few frames, the library warns and returns 1e-5
        return float(import_module("pystoi").stoi(x, y, rate, extended))


class _Signal(ctypes.Structure):
    """SIGNAL_INFO of pesq.h."""

    _fields_ = (
        ("names", ctypes.c_char * 640), ("samples", ctypes.c_long), ("swap", ctypes.c_long), ("filter", ctypes.c_long),
        ("data", ctypes.POINTER(ctypes.c_float)), ("vad", ctypes.c_void_p), ("log_vad", ctypes.c_void_p),
    )  # fmt: skip


@functools.lru_cache(maxsize=64)  # the same original comes again with each setting
def _utterances(samples: bytes, rate: int, mode: str) -> int:
    """Return the number of utterances that the code of PESQ finds in a waveform.

    The code writes its tables of utterances one after the other. With too many utterances, it overwrites the next
    table, and the result is a wrong number or a crash. This call gives it more memory and reads the count, which
    stands before the tables.
    """
    wave = np.frombuffer(samples, np.float32)
    wave = wave / np.abs(wave).max()
    signals = [_Signal(samples=len(wave), filter=1 + (mode == "wb")) for _ in range(2)]
    for info in signals:
        info.data = wave.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    library = ctypes.CDLL(import_module("pesq.cypesq").__file__)
    tables, flag, kind = (ctypes.c_long * 2**16)(), ctypes.c_long(), ctypes.c_char_p()
    if not hasattr(library, "pesq_measure"):  # on Windows, libraries export nothing by themselves
        raise ValueError(f"signals of more than {UTTERANCES * SHORTEST:.0f} s need a build of pesq with its functions")
    library.select_rate(ctypes.c_long(rate), ctypes.byref(flag), ctypes.byref(kind))
    library.pesq_measure(*map(ctypes.byref, signals), tables, ctypes.byref(flag), ctypes.byref(kind))
    return tables[0]


FUNCTIONS = {"pesq": pesq, "stoi": stoi}


def _answer(request: dict[str, Any], data: BinaryIO) -> dict[str, Any]:
    x, y = (np.frombuffer(data.read(4 * request["samples"]), np.float32) for _ in range(2))
    try:
        return {"value": FUNCTIONS[request["function"]](x, y, **request["settings"])}
    except Exception as error:  # whatever the library raises is the reason of a missing value
        return {"error": type(error).__name__, "message": " ".join(str(error).split())}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to standard output
    while line := requests.readline():
        print(json.dumps(_answer(json.loads(line), requests)), file=replies, flush=True)


if __name__ == "__main__":
    main()
