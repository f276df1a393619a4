"""Ids, places and sizes of one channel's segments."""

from __future__ import annotations

import bisect
import math

import numpy as np
import torch
from torch import Tensor

from tokenloom.codecs import Codes, validate

from . import streams
from .channel import AXES, Channel, check, quantizer_count

SIZE_DIGITS = 4
"""Largest number of digits of a size: sizes are below 2²⁸."""
MAX_PLACES = 512
"""Number of codes of a segment with a place of their own. Later codes share one place per quantizer."""


class ChannelLayout:
    """Layout of a channel's segments in the id space. A segment has at most `longest` ids.

    Attributes:
        begin: Id of the channel's BEGIN.
        quantizers: Number of quantizers.
        entries: Number of entries of each quantizer.
        ranges: Ids of each quantizer's codes.
        axes: Number of sizes in a header.
        room: Largest number of codes in a segment.
        places: Number of places.
    """

    def __init__(self, channel: Channel, longest: int, *, begin: int, first_id: int, first_place: int) -> None:
        check(channel)
        self.channel, self.begin = channel, begin
        self.spec = channel.codec.spec
        self.axes = AXES[self.spec.modality]
        self.quantizers = quantizer_count(channel)
        self.entries = self.spec.codebook_sizes[: self.quantizers]
        starts = [first_id + sum(self.entries[:q]) for q in range(self.quantizers)]
        self.ranges = [range(start, start + n) for start, n in zip(starts, self.entries, strict=True)]
        self._starts = torch.tensor(starts)
        self.room = longest - 2 - SIZE_DIGITS * self.axes
        self._first_place = first_place
        self._own_places = min(MAX_PLACES, self.room + 1)
        self.places = SIZE_DIGITS * self.axes + self._own_places + self.quantizers
        self._largest: dict[tuple[int, ...], int] = {}
        if self.largest(()) < 1:
            raise ValueError(f"{channel.name} needs more than {longest} ids for its smallest signal")

    # -- sizes and places -------------------------------------------------------------------------

    def count(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Return the smallest and the largest number of codes of a signal of `size`."""
        if self.spec.stride:
            fewest = most = math.prod(self.spec.grid(size))
        else:
            span = self.channel.codec.span(size) if self.axes else None
            fewest, most = span or (0, self.room // self.quantizers)
        return fewest * self.quantizers, most * self.quantizers

    def largest(self, sizes: tuple[int, ...]) -> int:
        """Return the largest size along the axis after `sizes` whose codes have room."""
        if sizes not in self._largest:
            most = min(validate.limit(self.spec.modality), streams.BASE**SIZE_DIGITS - 1) // math.prod(sizes)

            def too_large(n: int) -> bool:
                return self.count((*sizes, n, 1)[: self.axes])[1] > self.room

            self._largest[sizes] = bisect.bisect_left(range(1, most + 1), True, key=too_large)
        return self._largest[sizes]

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise ValueError unless a segment can have this size."""
        name = self.channel.name
        if len(size) != self.axes:
            raise ValueError(f"a segment of {name} has {self.axes} sizes, got {size}")
        if any(n < 1 for n in size):
            raise ValueError(f"a size of {name} must be at least 1, got {min(size)}")
        for axis, n in enumerate(size):
            if n > (most := self.largest(size[:axis])):
                raise ValueError(
                    f"{name}: a signal of {size} takes {self.count(size)[1]} codes; one segment has room for "
                    f"{self.room}, which is {most} samples along axis {axis}"
                )

    def digit_place(self, axis: int, digits: int) -> int:
        """Return the place of the next digit of a size that has `digits` digits so far."""
        return self._first_place + SIZE_DIGITS * axis + digits

    def code_quantizers(self, size: tuple[int, ...]) -> np.ndarray:
        """Return the quantizer of each code, int64 (n,); if lengths vary, of the longest segment and one code more."""
        if self.spec.stride:
            return streams.order(self.spec.grid(size), self.quantizers, self.channel.pattern)[:, 1].numpy()
        return np.arange(self.count(size)[1] + 1) % self.quantizers

    def code_places(self, quantizer: np.ndarray) -> np.ndarray:
        """Return the place of each code of a segment from its quantizer."""
        index = np.arange(len(quantizer))
        places = np.where(index < self._own_places, index, self._own_places + quantizer)
        return self._first_place + SIZE_DIGITS * self.axes + places

    # -- codes ↔ ids ------------------------------------------------------------------------------

    def ids(self, indices: Tensor) -> Tensor:
        """Return the ids of one item's indices (quantizers, *grid), without the header."""
        codes, quantizer = streams.flatten(indices.cpu(), self.channel.pattern)
        return codes + self._starts[quantizer]

    def codes(self, ids: np.ndarray, sizes: tuple[int, ...]) -> Codes:
        """Return the codes of one segment as a batch of one: the inverse of `ids`."""
        row = torch.from_numpy(ids.astype(np.int64))
        fixed = bool(self.spec.stride)
        grid = self.spec.grid(sizes) if fixed else (len(row) // self.quantizers,)
        quantizer = streams.order(grid, self.quantizers, self.channel.pattern)[:, 1]
        indices = streams.unflatten(row - self._starts[quantizer], grid, self.quantizers, self.channel.pattern)[None]
        lengths = None if fixed else torch.tensor(grid)
        if lengths is not None and not self.axes:
            sizes = (self._byte_count(indices, lengths),)
        return Codes(indices, torch.tensor([sizes]), lengths)

    def _byte_count(self, indices: Tensor, lengths: Tensor) -> int:
        """Number of UTF-8 bytes of a text. The codes of a codebook of 256 are its bytes."""
        if self.entries == (256,):
            return int(lengths)
        (text,) = self.channel.codec.decode(Codes(indices, lengths[:, None], lengths))
        return len(str(text).encode("utf-8"))
