"""Speed of decoding single items."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom import devices
from tokenloom.codecs.types import Modality

from .records import SpeedRecord
from .setup import DecoderSetup
from .variants import FLOW_STEPS

REPEATS = 5
SIDE = 64
"""Side in pixels of the small image that the claim about speed is for."""
SQUARE = f"{SIDE}x{SIDE}"


def measure(setup: DecoderSetup, first: Tensor) -> list[SpeedRecord]:
    """Measure the seconds per item at the highest setting, with the plain decoder and with few steps.

    The items are the first test item and, for images, its SIDE by SIDE corner.
    """
    signals = {"first item": first}
    if setup.codec.spec.modality is Modality.IMAGE:
        signals[SQUARE] = _square(first)
    steps = [n for n in setup.steps if n < FLOW_STEPS]
    records = []
    place = setup.codec.device
    for name, x in signals.items():
        codes = setup.codec.encode(x[None], setup.settings[-1])
        plain = _seconds(lambda codes=codes: setup.codec.decode(codes), place)
        taken = {str(n): _seconds(lambda n=n, codes=codes: setup.decoder.decode(codes, steps=n), place) for n in steps}
        records.append(SpeedRecord(name, "x".join(map(str, x.shape[1:])), plain, taken))
    return records


def _square(x: Tensor) -> Tensor:
    """Return the top left SIDE by SIDE pixels. Small images are padded with their edges."""
    x = x[:, :SIDE, :SIDE]
    return F.pad(x[None], (0, SIDE - x.shape[2], 0, SIDE - x.shape[1]), mode="replicate")[0]


def _seconds(decode: Callable[[], Any], place: torch.device) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        decode()
        devices.synchronize(place)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])  # without the warm-up
