"""Program of the child process that speaks; see synthesizer.py. It imports nothing of ours, no numpy and no torch.

Its argument is the name of a synthesizer. A request is a line of JSON with the arguments of `say`. A reply is a line of
JSON, and samples of 16 bits.

Both libraries keep a state, such as that of their noise, from one text to the next. So each text is spoken by a fork of
a process that has loaded the library and said nothing yet: the sound depends on the request alone, and a crash costs
that one text only.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
from ctypes.util import find_library
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

PATIENCE = 20
"""Seconds until a fork without a result is ended."""


class Synthesizer(Protocol):
    """A loaded library. `rate` is in Hz, and `version` identifies it."""

    rate: int
    version: str

    def say(self, text: str, voice: str, speed: float, pitch: float) -> bytes:
        """Return the samples of a text. Speed and pitch are relative to those of the voice."""
        ...


class Espeak:
    """espeak-ng as a library: that of the package espeakng-loader, or else that of the system."""

    RATE, PITCH = 1, 3  # espeak_PARAMETER
    WORDS_PER_MINUTE, USUAL_PITCH = 175, 50
    SYNCHRONOUS, NO_EXIT, UTF8, BY_CHARACTERS = 2, 0x8000, 1, 1  # synchronous: a fork has no other thread

    def __init__(self) -> None:
        path, data = find_library("espeak-ng"), None
        if find_spec("espeakng_loader"):
            package = import_module("espeakng_loader")
            path, data = package.get_library_path(), package.get_data_path().encode()
        self._library = ctypes.CDLL(path)
        self.rate = self._library.espeak_Initialize(self.SYNCHRONOUS, 0, data, self.NO_EXIT)
        if self.rate <= 0:
            raise OSError("espeak-ng finds no data")
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.version = "espeak-ng " + self._library.espeak_Info(None).decode()
        self._samples = bytearray()
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, wave: int | None, count: int, _: Any) -> int:
        if wave and count > 0:
            self._samples += ctypes.string_at(wave, 2 * count)
        return 0

    def say(self, text: str, voice: str, speed: float, pitch: float) -> bytes:
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"this espeak-ng has no voice {voice}")
        self._library.espeak_SetParameter(self.RATE, round(self.WORDS_PER_MINUTE * speed), 0)
        # the table of espeak-ng doubles the frequency in about 50 steps
        self._library.espeak_SetParameter(self.PITCH, round(self.USUAL_PITCH * (1 + math.log2(pitch))), 0)
        data = text.encode()
        # without espeakSSML and espeakPHONEMES all characters are text
        self._library.espeak_Synth(data, len(data) + 1, 0, self.BY_CHARACTERS, 0, self.UTF8, None, None)
        return bytes(self._samples)


class Flite:
    """flite as a library, with its voice slt."""

    USUAL_PITCH = 170.0  # Hz; the median of slt

    class _Voice(ctypes.Structure):
        _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]

    class _Wave(ctypes.Structure):
        _fields_ = [
            ("type", ctypes.c_char_p), ("rate", ctypes.c_int), ("count", ctypes.c_int), ("channels", ctypes.c_int),
            ("samples", ctypes.c_void_p),
        ]  # fmt: skip

    def __init__(self) -> None:
        core, slt = ctypes.CDLL(find_library("flite")), ctypes.CDLL(find_library("flite_cmu_us_slt"))
        core.flite_init()
        slt.register_cmu_us_slt.restype = ctypes.POINTER(self._Voice)
        core.flite_text_to_wave.restype = ctypes.POINTER(self._Wave)
        core.flite_text_to_wave.argtypes = [ctypes.c_char_p, ctypes.POINTER(self._Voice)]
        core.feat_set_float.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float]
        self._core, self._voice = core, slt.register_cmu_us_slt(None)
        self.rate, self.version = 16000, "flite"

    def say(self, text: str, voice: str, speed: float, pitch: float) -> bytes:
        features = self._voice.contents.features
        self._core.feat_set_float(features, b"duration_stretch", 1 / speed)
        self._core.feat_set_float(features, b"int_f0_target_mean", self.USUAL_PITCH * pitch)
        wave = self._core.flite_text_to_wave(text.encode(), self._voice).contents
        return ctypes.string_at(wave.samples, 2 * wave.count)


SYNTHESIZERS = {"espeak-ng": Espeak, "flite": Flite}


def _speak(synthesizer: Synthesizer, request: dict[str, Any]) -> None:
    """Write the reply to a request, in one piece."""
    signal.alarm(PATIENCE)
    try:
        samples = synthesizer.say(**request)
        header: dict[str, Any] = {"version": synthesizer.version, "rate": synthesizer.rate, "bytes": len(samples)}
    except ValueError as error:
        samples, header = b"", {"error": str(error)}
    _write(header, samples)


def _write(header: dict[str, Any], samples: bytes = b"") -> None:
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + samples)
    sys.stdout.buffer.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    try:
        synthesizer = SYNTHESIZERS[sys.argv[1]]()
    except (OSError, TypeError, AttributeError) as error:  # no such library, or one without these functions
        _write({"error": f"{sys.argv[1]} does not start: {error}"})
        return
    while line := sys.stdin.buffer.readline():
        fork = os.fork()
        if not fork:
            _speak(synthesizer, json.loads(line))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        if status:
            reason = f"no sound in {PATIENCE} s" if status == -signal.SIGALRM else f"it ended with status {status}"
            _write({"error": f"{sys.argv[1]} does not say this text: {reason}"})


if __name__ == "__main__":
    main()
