"""Speech synthesizers, each in one child process: espeak-ng, and flite with its voice slt.

Both are libraries in C. espeak-ng is under the GPL, so it runs in a process of its own and nothing depends on it.
"""

from __future__ import annotations

import functools
import json
import threading
import zlib
from contextlib import suppress
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tokenloom.errors import missing
from tokenloom.native import ChildProcess

ESPEAK, FLITE = "espeak-ng", "flite"
PROGRAM = Path(__file__).with_name("synthesizer_child.py")
LONGEST = 1000
"""Largest number of characters of a text, about a minute."""
ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
VOICES = {
    ESPEAK: tuple(f"{accent}+{variant}" for variant in VARIANTS for accent in ACCENTS),
    FLITE: ("slt",),
}
"""The voices of each synthesizer: those of espeak-ng are accents of English with the formants of a speaker."""
CLEAR = (*(f"en-us+{variant}" for variant in ("m1", "m2", "m5", "m6", "f1", "f2", "f3", "f4", "f5")), "slt")
"""Voices of which pocketsphinx, a recognizer of US English, understands most sentences; see docs/training.md."""
HELD_OUT = ("m2", "f4", "slt")
"""Speakers that are never trained on, in any accent."""
_PROBE = "she sells seven small sea shells"


class Speech(NamedTuple):
    """Samples of 16 bits, their rate in Hz, and the version of the synthesizer."""

    samples: bytes
    rate: int
    version: str


class Unspoken(ValueError):
    """A synthesizer does not say a text, for the reason in the message."""


class _Child(ChildProcess):
    """The child process of one synthesizer."""

    def __init__(self, name: str) -> None:
        super().__init__(PROGRAM, name)
        self._lock = threading.Lock()

    def say(self, **request: Any) -> Speech:
        with self._lock:
            process = self.running()
            try:
                assert process.stdin and process.stdout
                with suppress(BrokenPipeError):  # its last words say why
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
                reply = json.loads(process.stdout.readline() or b'{"error": "the process of the synthesizer died"}')
                if "error" in reply:
                    raise Unspoken(reply["error"])
                return Speech(process.stdout.read(reply["bytes"]), reply["rate"], reply["version"])
            except Unspoken:
                raise
            except BaseException:  # Ctrl-C: the answer to this call must not be taken for that to the next
                process.kill()
                raise


_children = {name: _Child(name) for name in VOICES}


def check(name: str) -> None:
    """Raise ValueError, with how to install it, if a synthesizer of `VOICES` is not installed."""
    if name == ESPEAK and not (find_spec("espeakng_loader") or find_library("espeak-ng")):
        raise missing("espeakng-loader", "spoken", "data source spoken")
    if name == FLITE and not (find_library("flite") and find_library("flite_cmu_us_slt")):
        raise ValueError(
            "synthesizer flite needs the library flite, which is not installed: "
            "apt-get install flite (Debian, Ubuntu) or brew install flite (macOS)"
        )


def say(name: str, text: str, voice: str, speed: float = 1.0, pitch: float = 1.0) -> Speech:
    """Speak a text. The result depends on the arguments and on the version of the synthesizer alone.

    Args:
        name: A synthesizer of `VOICES` that `check` accepts.
        text: At most `LONGEST` characters, without NUL. No character of it is an option or markup.
        voice: One of the synthesizer's `VOICES`.
        speed: Relative to that of the voice, from 0.5 to 2.
        pitch: Relative to that of the voice, from 0.5 to 2.

    Raises:
        Unspoken: The synthesizer does not start, fails, or gives no sound in time.
    """
    if "\0" in text or not 0 < len(text) <= LONGEST:
        raise ValueError(f"text must have 1 to {LONGEST} characters and no NUL, got {text!r:.40}")
    return _children[name].say(text=text, voice=voice, speed=speed, pitch=pitch)


@functools.cache
def fingerprint(name: str) -> str:
    """Return the version of a synthesizer, with a checksum of how it says one sentence."""
    speech = say(name, _PROBE, VOICES[name][0])
    return f"{speech.version} {zlib.crc32(speech.samples):08x}"
