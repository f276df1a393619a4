"""What a document of ids is made of: channels, the state after each id, and what one codec contributes."""

from __future__ import annotations

import bisect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tokenloom.codecs import batches, validate
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, Modality, Target, TargetError

from . import streams

if TYPE_CHECKING:
    from .vocabulary import Vocabulary

PAD, DOCUMENT, STOP, END = range(4)
SPECIALS = ("PAD", "DOCUMENT", "STOP", "END")
DIGITS = 2 * streams.BASE
LONGEST_SIZE = 4
"""Digits of a size at most: sizes stay below 2²⁸."""
MOST_PLACES = 512
"""Codes of a segment that have a place of their own; those behind share one a quantizer."""
AXES = {Modality.TEXT: 0, Modality.AUDIO: 1, Modality.IMAGE: 2}


@dataclass(frozen=True)
class Channel:
    """How one codec takes part in a vocabulary.

    name     the key of its segments
    setting  what `codec.encode` gets; for residual quantizers the number used, a prefix of them all
    pattern  the order of its codes, see streams.py; where lengths vary it is raster
    """

    name: str
    codec: Codec
    setting: Any = None
    pattern: str = "raster"

    @property
    def modality(self) -> Modality:
        return self.codec.spec.modality

    def encode(self, x: Tensor | list[str]) -> Codes:
        """Signals → codes at the channel's setting.

        A signal that a target is out of reach of gets the highest setting, with a warning: a sequence needs
        codes for every signal.
        """
        try:
            return self.codec.encode(x, self.setting)
        except TargetError:
            if len(x) > 1:
                return batches.collate([self.encode(x[i : i + 1]) for i in range(len(x))])
        warnings.warn(f"{self.name}: signals out of reach of {self.setting} have all their tokens", stacklevel=2)
        return self.codec.encode(x, self.codec.settings.values[-1])


@dataclass(frozen=True, slots=True)
class State:
    """Where a document stands: the kind and the place of its next id. Immutable and hashable.

    kind   index into `Vocabulary.kinds`, the ids that may come next
    place  where the next id stands in its segment, in [0, Vocabulary.places); 0 between segments
    """

    kind: int
    place: int
    vocabulary: Vocabulary = field(repr=False)
    part: Part | None = field(default=None, repr=False)
    sizes: tuple[int, ...] = ()
    prefix: int = 0
    digits: int = 0
    count: int = 0
    body: Body | None = field(default=None, repr=False, compare=False)

    @property
    def between(self) -> bool:
        """Whether a segment is over, or none has begun: the next id is a BEGIN or STOP."""
        return self.part is None and not self.over

    @property
    def over(self) -> bool:
        """Whether the document has stopped."""
        return self.kind == self.vocabulary.over.kind

    @property
    def reads_size(self) -> bool:
        """Whether the next id is a digit of a size."""
        return self.part is not None and self.body is None

    @property
    def channel(self) -> Channel | None:
        """The channel of the segment that the next id belongs to; None between segments."""
        return self.part and self.part.channel

    def advance(self, id: int) -> State:
        """The state after `id`; ValueError where the grammar does not allow it."""
        vocabulary, part = self.vocabulary, self.part
        if not vocabulary.allows(self.kind, id):
            raise ValueError(vocabulary.complaint(self.kind, id))
        if part is None:
            return vocabulary.over if id in (STOP, PAD) else vocabulary.parts[id - vocabulary.begin].opened
        if self.body is None:
            return part.after_digit(self, id - vocabulary.digit)
        return vocabulary.start() if id == END else part.inside(self.sizes, self.body, self.count + 1)


@dataclass(frozen=True, eq=False)
class Body:
    """Kind and place of the next id after 0, 1, … codes of a segment, (n,) int64."""

    kinds: np.ndarray
    places: np.ndarray


class Part:
    """One channel's ids, places and kinds: what a vocabulary knows of a codec."""

    def __init__(self, vocabulary: Vocabulary, channel: Channel) -> None:
        _admit(channel)
        self.channel, self.vocabulary = channel, vocabulary
        self.spec = spec = channel.codec.spec
        self.axes = AXES[spec.modality]
        self.quantizers = _quantizers(channel)
        self.entries = spec.codebook_sizes[: self.quantizers]
        self.begin = vocabulary.begin + len(vocabulary.parts)
        starts = [vocabulary.size + sum(self.entries[:q]) for q in range(self.quantizers)]
        self.ranges = [range(a, a + n) for a, n in zip(starts, self.entries, strict=True)]
        self.starts = torch.tensor(starts)
        self.room = vocabulary.longest - 2 - LONGEST_SIZE * self.axes
        self._codes = np.array([vocabulary.add(ids) for ids in self.ranges])
        self._codes_or_end = vocabulary.add(range(END, END + 1), self.ranges[0])
        self._first_place = vocabulary.places
        self._own_places = min(MOST_PLACES, self.room + 1)
        self.places = LONGEST_SIZE * self.axes + self._own_places + self.quantizers
        self._bodies: dict[tuple[int, ...], Body] = {}
        self._largest: dict[tuple[int, ...], int] = {}
        if self.largest(()) < 1:
            raise ValueError(f"{channel.name} needs more than {vocabulary.longest} ids for its smallest signal")
        self._add_digits()
        self.opened = self._heading((), 0, 0)

    # -- sizes ----------------------------------------------------------------------------------

    def count(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Fewest and most codes of a signal of `size`."""
        codec = self.channel.codec
        if self.spec.stride:
            fewest = most = math.prod(self.spec.grid(size))
        else:
            fewest, most = (codec.span(size) if self.axes else None) or (0, self.room // self.quantizers)
        return fewest * self.quantizers, most * self.quantizers

    def largest(self, sizes: tuple[int, ...]) -> int:
        """The largest size that may come after `sizes`, so that the codes have room even then."""
        if sizes not in self._largest:
            rest = (1,) * (self.axes - len(sizes) - 1)
            most = min(validate.limit(self.spec.modality), streams.BASE**LONGEST_SIZE - 1) // math.prod(sizes)

            def too_large(n: int) -> bool:
                return self.count((*sizes, n, *rest)[: self.axes])[1] > self.room

            self._largest[sizes] = bisect.bisect_left(range(1, most + 1), True, key=too_large)
        return self._largest[sizes]

    def check(self, size: tuple[int, ...]) -> None:
        """Raise ValueError unless a segment may have this size."""
        name = self.channel.name
        if len(size) != self.axes:
            raise ValueError(f"a segment of {name} has {self.axes} sizes, not {size}")
        if min(size, default=1) < 1:
            raise ValueError(f"{name}: a size of {min(size)}; sizes are at least 1")
        for axis, n in enumerate(size):
            if n > (most := self.largest(size[:axis])):
                raise ValueError(
                    f"{name}: a signal of {size} takes {self.count(size)[1]} codes; one segment has room for "
                    f"{self.room}, which is {most} samples along axis {axis}"
                )

    # -- states ---------------------------------------------------------------------------------

    def _heading(self, sizes: tuple[int, ...], prefix: int, digits: int) -> State:
        """The state within the header: `sizes` are read, and the digits of `prefix` of the next one."""
        if len(sizes) == self.axes:
            if sizes not in self._bodies:
                if len(self._bodies) >= 256:
                    self._bodies.clear()
                self._bodies[sizes] = self._body(sizes)
            return self.inside(sizes, self._bodies[sizes], 0)
        kind = self.vocabulary.number(*self.digit_ids(prefix, self.largest(sizes)))
        place = self._first_place + LONGEST_SIZE * len(sizes) + digits
        return State(kind, place, self.vocabulary, self, sizes, prefix, digits)

    def after_digit(self, state: State, digit: int) -> State:
        n = state.prefix * streams.BASE + digit % streams.BASE
        if digit >= streams.BASE:
            return self._heading(state.sizes, n, state.digits + 1)
        return self._heading((*state.sizes, n), 0, 0)

    def inside(self, sizes: tuple[int, ...], body: Body, count: int) -> State:
        """The state after the header and `count` codes."""
        if count == len(body.kinds):
            return self.vocabulary.start()
        kind, place = int(body.kinds[count]), int(body.places[count])
        return State(kind, place, self.vocabulary, self, sizes, count=count, body=body)

    def _body(self, size: tuple[int, ...]) -> Body:
        fewest, most = self.count(size)
        if self.spec.stride:
            quantizer = streams.order(self.spec.grid(size), self.quantizers, self.channel.pattern)[:, 1].numpy()
            kinds = self._codes[quantizer]
        else:
            quantizer = np.arange(most + 1) % self.quantizers
            kinds = self._codes[quantizer]
            kinds[fewest :: self.quantizers] = self._codes_or_end
            kinds[most] = self.vocabulary.end
        index = np.arange(len(kinds))
        places = np.where(index < self._own_places, index, self._own_places + quantizer)
        return Body(kinds, self._first_place + LONGEST_SIZE * self.axes + places)

    def digit_ids(self, prefix: int, largest: int) -> tuple[range, range]:
        """Ids of the next digit of a size in 1 … `largest`, of which `prefix` is read: of the last, and of others."""
        base, low = streams.BASE, 0 if prefix else 1  # no size begins with the digit 0
        last = range(low, max(low, min(base, largest - prefix * base + 1)))
        others = range(low, max(low, min(base, largest // base - prefix * base + 1)))
        first = self.vocabulary.digit
        return _shift(last, first), _shift(others, first + base)

    def _add_digits(self) -> None:
        """Every kind of digit that a header can come to."""
        if not self.axes:
            return
        bounds = {self.largest(())}
        if self.axes > 1:
            bounds |= _values(lambda n: self.largest((n,)), 1, self.largest(()))
        for most in sorted(bounds):
            # what a digit may be changes only where the prefix is that of `most`, one digit or two before its last
            high, low = most // streams.BASE**2, most // streams.BASE
            for prefix in sorted({0, 1, high - 1, high, high + 1, low - 1, low}):
                if 0 <= prefix <= low:
                    self.vocabulary.add(*self.digit_ids(prefix, most))

    # -- codes ↔ ids ----------------------------------------------------------------------------

    def ids(self, indices: Tensor) -> Tensor:
        """(quantizers, *grid) of one item → its ids in order, without header."""
        codes, quantizer = streams.flatten(indices.cpu(), self.channel.pattern)
        return codes + self.starts[quantizer]

    def codes(self, ids: np.ndarray, sizes: tuple[int, ...]) -> Codes:
        """The inverse of `ids`, as a batch of one."""
        row = torch.from_numpy(ids.astype(np.int64))
        fixed = bool(self.spec.stride)
        grid = self.spec.grid(sizes) if fixed else (len(row) // self.quantizers,)
        quantizer = streams.order(grid, self.quantizers, self.channel.pattern)[:, 1]
        indices = streams.unflatten(row - self.starts[quantizer], grid, self.quantizers, self.channel.pattern)[None]
        lengths = None if fixed else torch.tensor(grid)
        if not self.axes:
            sizes = (self._bytes(indices, lengths),)
        return Codes(indices, torch.tensor([sizes]), lengths)

    def _bytes(self, indices: Tensor, lengths: Tensor) -> int:
        """Bytes of UTF-8 that a text's codes stand for; the codes themselves where they are bytes."""
        if self.entries == (256,):
            return int(lengths)
        (text,) = self.channel.codec.decode(Codes(indices, lengths[:, None], lengths))
        return len(text.encode("utf-8"))


def _admit(channel: Channel) -> None:
    """Raise one line unless the channel can enter a vocabulary."""
    codec, name = channel.codec, channel.name
    if not isinstance(codec, Codec):
        raise ValueError(f"channel {name!r} needs a codec, not {type(codec).__name__}")
    spec = codec.spec
    if not spec.total:
        raise ValueError(
            f"{name} ({codec.name}) cannot enter a vocabulary: not every sequence of its tokens decodes (spec.total)"
        )
    if side := codec.side_shapes((1,) * max(1, AXES[spec.modality])):
        raise ValueError(
            f"{name} ({codec.name}) cannot enter a vocabulary: its codes need side information ({', '.join(side)})"
        )
    if channel.pattern not in streams.PATTERNS:
        raise ValueError(f"pattern {channel.pattern!r} of {name} is none of {', '.join(streams.PATTERNS)}")
    if channel.pattern != "raster" and not spec.stride:
        raise ValueError(f"pattern {channel.pattern!r} of {name}: where lengths vary, the pattern is raster")
    if not isinstance(channel.setting, Target):
        validate.setting(channel.setting, codec)


def _quantizers(channel: Channel) -> int:
    """How many quantizers a channel's codes have: what the codec itself does at that setting."""
    codec, spec = channel.codec, channel.codec.spec
    if not (spec.ordered and spec.stride and len(spec.codebook_sizes) > 1):
        return len(spec.codebook_sizes)
    if isinstance(channel.setting, Target):
        raise ValueError(
            f"{channel.name}: {channel.setting} gives each item its own number of quantizers, and a channel has one; "
            f"{codec.settings.name} is one of {codec.settings.describe()}"
        )
    device = next((p.device for p in codec.parameters()), torch.device("cpu"))
    smallest = torch.zeros(1, spec.channels, *[1] * len(spec.stride), device=device)
    return int(codec.encode(smallest, channel.setting).quantizers()[0])


def _shift(digits: range, by: int) -> range:
    return range(digits.start + by, digits.stop + by)


def _values(function: Callable[[int], int], low: int, high: int) -> set[int]:
    """All values that a monotone function takes on low … high."""
    ends = {function(low), function(high)}
    if len(ends) == 1 or high - low == 1:
        return ends
    middle = (low + high) // 2
    return _values(function, low, middle) | _values(function, middle, high)
