"""Recognizers of speech: pocketsphinx, a function of the user, or a model of transformers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenloom import lazy, own_code
from tokenloom.errors import describe

from .. import errors, native
from ..errors import Unmeasurable
from .pairs import answered, mono

transformers = lazy.load("transformers", "hf")

CLOSED, OPEN = "pocketsphinx-captions", "pocketsphinx"
RATE = 16000
"""Sample rate in Hz that recognizers hear."""
MOST = 2000
"""Largest number of captions of a grammar."""


@dataclass(frozen=True)
class Recognizer:
    """A recognizer by its name. It can be sent to another process.

    Attributes:
        name: "pocketsphinx-captions": which of the captions of the data is said. "pocketsphinx": any US English.
            "FILE.py:FUNCTION": a function of the user, from samples, float32 (samples,), and their rate, 16000 Hz, to
            text. Anything else: the folder or hub id of a speech recognizer of transformers.
        captions: The captions, normalized, for "pocketsphinx-captions".
    """

    name: str = CLOSED
    captions: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The name, for the user's own file with its content. The captions belong to the data."""
        path, function = self.reference
        return f"{path.name}:{function} ({own_code.sha256(path)[:8]})" if function else self.name

    @property
    def reference(self) -> tuple[Path, str]:
        """File and function of the user; no function for another recognizer."""
        path, colon, function = self.name.rpartition(":")
        return Path(path).expanduser(), function if colon and path.endswith(".py") else ""

    def missing(self) -> str | None:
        """Return the reason why the recognizer cannot be used, or None."""
        if self.name in (CLOSED, OPEN):
            return errors.missing_package("pocketsphinx", "judges")
        return None if self.reference[1] else errors.missing_package("transformers", "hf")

    def check(self) -> None:
        """Raise FileNotFoundError or ValueError if there is no such function. Run the user's file."""
        if self.reference[1]:
            _function(*self.reference)

    def hear(self, wave: Tensor, sample_rate: int) -> str:
        """Return the text of a waveform, float32 (channels, samples) in [-1, 1]."""
        return _heard(self, mono(wave, sample_rate, RATE).contiguous().numpy().tobytes())


@functools.lru_cache(maxsize=64)  # two metrics need it, and the same original comes again with each setting
def _heard(recognizer: Recognizer, samples: bytes) -> str:
    wave = torch.frombuffer(bytearray(samples), dtype=torch.float32)
    if recognizer.name in (CLOSED, OPEN):
        closed = recognizer.name == CLOSED
        if closed and not 0 < len(recognizer.captions) <= MOST:
            raise Unmeasurable(f"a grammar takes 1 to {MOST:,} captions, the data have {len(recognizer.captions):,}")
        return answered(
            "pocketsphinx", "pocketsphinx",
            lambda: native.call("transcribe", wave, rate=RATE, sentences=recognizer.captions if closed else ()),
        )  # fmt: skip
    if recognizer.reference[1]:
        try:
            return str(_function(*recognizer.reference)(wave.numpy(), RATE))
        except Exception as error:  # the code of a third party can raise anything
            raise Unmeasurable(f"{recognizer}: {describe(error)}") from error
    return str(_pipeline(recognizer.name)(np.array(wave))["text"])


def _function(path: Path, name: str) -> Callable[..., object]:
    """Return a function of the user's file, which runs."""
    function = getattr(own_code.module(path), name, None)
    if not callable(function):
        raise ValueError(f"recognizer: {path} must have a function {name}, and has none")
    return function


@functools.cache
def _pipeline(name: str) -> Any:
    return transformers.pipeline("automatic-speech-recognition", model=name, device="cpu")
