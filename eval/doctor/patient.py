"""The codec under examination, with its signals, and what several checks measure of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from tokenloom import devices
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, Modality

from . import signals
from .records import Inapplicable

T = TypeVar("T")

ITEMS = 8
"""Number of signals of the batch."""
SIDES = (64, 96, 128, 192, 256)
"""Sides of the images of the batch in pixels."""
SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Lengths of its sounds."""


class Patient:
    """A codec, the setting it is examined at, and its signals.

    Args:
        codec: The codec.
        source: What `codecs.load` makes the codec from; None if another process cannot load it.
        setting: Setting of all checks but that of the settings; None for the default.
        real: Real signals, (channels, *size) or texts.
        seconds: Time that a check may take. A check of many cases stops after it.
    """

    def __init__(
        self, codec: Codec, *, source: Any = None, setting: Any = None, real: Sequence[Tensor | str],
        seconds: float = 4.0,
    ) -> None:  # fmt: skip
        self.codec, self.source, self.setting, self.seconds = codec, source, setting, seconds
        self.spec, self.modality = codec.spec, codec.spec.modality
        self.real = list(real)
        self._began = 0.0
        self._known: dict[Callable[..., Any], Any] = {}

    # -- calls ------------------------------------------------------------------------------

    def encode(self, x: Tensor | list[str]) -> Codes:
        """Encode at the setting of the examination."""
        return self.codec.encode(x, self.setting)

    def decode(self, codes: Codes) -> Any:
        """Decode to the CPU."""
        decoded = self.codec.decode(codes)
        return decoded.cpu() if isinstance(decoded, Tensor) else decoded

    def round_trip(self, x: Any) -> Any:
        """Encode and decode."""
        return self.decode(self.encode(x))

    def compress(self, x: Any) -> list[bytes]:
        """Write containers at the setting of the examination. Raises Inapplicable for a codec that cannot."""
        if not self.has_containers:
            raise Inapplicable("the codec has no fingerprint, which containers need")
        return self.codec.compress(x, self.setting)

    @cached_property
    def has_containers(self) -> bool:
        """Whether the codec has a fingerprint. Two functions without a version have none."""
        try:
            return bool(self.codec.fingerprint)
        except ValueError:
            return False

    def timed(self, call: Callable[[], Any]) -> float:
        """Return the seconds of a call, that of the device included."""
        begin = time.perf_counter()
        call()
        devices.synchronize(self.codec.device)
        return time.perf_counter() - begin

    # -- time -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the time of a check."""
        self._began = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds that the check still has."""
        return self.seconds - (time.monotonic() - self._began)

    def cases(self, given: Iterable[T], least: int = 1) -> Iterator[T]:
        """Yield cases until the time of the check is over, `least` of them in any case."""
        for number, case in enumerate(given):
            if number >= least and self.left <= 0:
                return
            yield case

    def once(self, measure: Callable[[Patient], T]) -> T:
        """Return what a function measures of this patient. It is called once, and several checks use its result."""
        if measure not in self._known:
            self._known[measure] = measure(self)
        return self._known[measure]

    # -- signals ----------------------------------------------------------------------------

    @property
    def stride(self) -> tuple[int, ...]:
        """Samples per code along each axis; 1 if the number of codes varies."""
        return self.spec.stride or (1,) * (2 if self.modality is Modality.IMAGE else 1)

    def require_signal(self) -> None:
        """Raise Inapplicable for text."""
        if self.modality is Modality.TEXT:
            raise Inapplicable("text has no samples")

    def require_grid(self) -> None:
        """Raise Inapplicable unless every code has a place in the signal."""
        self.require_signal()
        if not self.spec.stride:
            raise Inapplicable("the codec has no stride: the number of its codes varies")
        if self.spec.window is not None:
            raise Inapplicable("the codec cuts sounds into chunks of its own")

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return a size in whole strides, at least one, not above `size` if possible."""
        return tuple(max(1, n // s) * s for n, s in zip(size, self.stride, strict=True))

    @cached_property
    def batch(self) -> Any:
        """Real signals of one size of whole strides, as large as a quarter of a check's time allows; or texts."""
        if self.modality is Modality.TEXT:
            return self.real[: 4 * ITEMS]
        sizes: list[tuple[int, ...]] = []
        rate = self.spec.sample_rate or 1
        for samples in (
            [(n, n) for n in SIDES] if self.modality is Modality.IMAGE else [(int(s * rate),) for s in SECONDS]
        ):
            sizes.append(self.whole(tuple(max(n, 4 * s) for n, s in zip(samples, self.stride, strict=True))))
        best = self.stack(sizes[0])
        self.encode(best[:1])  # the first call may import packages
        for size in sizes:
            x = self.stack(size)
            seconds, best = self.timed(lambda x=x: self.encode(x)), x
            if seconds > self.seconds / 10:
                break
        return best

    def stack(self, size: tuple[int, ...], count: int = ITEMS) -> Tensor:
        """Return `count` real signals of a size, float32 (count, channels, *size)."""
        chosen = [self.real[i % len(self.real)] for i in range(count)]
        return torch.stack([signals.fitted(one, size) for one in chosen if isinstance(one, Tensor)])

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the signals of the batch."""
        return tuple(self.batch.shape[2:])

    @cached_property
    def codes(self) -> Codes:
        """Codes of the batch."""
        return self.encode(self.batch)

    @cached_property
    def decoded(self) -> Any:
        """What the codes of the batch decode to."""
        return self.decode(self.codes)

    @cached_property
    def speed(self) -> float:
        """Samples per second of an encoding of the batch, times its channels not counted."""
        seconds = self.timed(lambda: self.encode(self.batch))
        return len(self.batch) * math.prod(self.size) / max(seconds, 1e-9)

    @cached_property
    def corpus(self) -> list[Codes]:
        """Codes of as many real signals, each by itself at its own size, as the time of a check allows."""
        return [
            self.encode([one] if isinstance(one, str) else one[None]) for one in self.cases(self.real, min(ITEMS, 4))
        ]
