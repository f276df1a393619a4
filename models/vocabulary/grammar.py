"""The grammar of documents: the state after each id, and the ids that each state allows.

document   DOCUMENT segment… STOP
segment    BEGIN of its channel, size digits, codes, and END if lengths vary
sizes      height and width of an image, number of samples of audio, none for text (see streams.varint)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from . import streams
from .channel import Channel
from .id_space import END, PAD, STOP, IdSpace
from .layout import ChannelLayout

CACHED_BODIES = 256


class SegmentBody(NamedTuple):
    """Kind and place of the next id after 0, 1, … codes of a segment, int64 (n,)."""

    kinds: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, slots=True)
class DocumentState:
    """Position within a document. Immutable and hashable."""

    kind: int
    """Index into `Vocabulary.kinds`, the sets of ids that are allowed next."""
    place: int
    """Place of the next id in its segment; 0 between segments."""
    grammar: Grammar = field(repr=False)
    layout: ChannelLayout | None = field(default=None, repr=False)
    sizes: tuple[int, ...] = ()
    prefix: int = 0
    """Value of the digits of an incomplete size."""
    digits: int = 0
    """Number of these digits."""
    count: int = 0
    """Number of codes in the open segment."""
    body: SegmentBody | None = field(default=None, repr=False, compare=False)

    @property
    def between_segments(self) -> bool:
        """Whether the document continues and no segment is open: the next id is a BEGIN or STOP."""
        return self.layout is None and not self.stopped

    @property
    def stopped(self) -> bool:
        """Whether the document has ended with STOP."""
        return self.kind == self.grammar.stopped.kind

    @property
    def reads_size(self) -> bool:
        """Whether the next id is a digit of a size."""
        return self.layout is not None and self.body is None

    @property
    def channel(self) -> Channel | None:
        """Channel of the open segment; None between segments."""
        return self.layout and self.layout.channel

    def advance(self, id: int) -> DocumentState:
        """Return the state after `id`. Raises ValueError if the grammar does not allow it."""
        grammar = self.grammar
        if not grammar.allows(self.kind, id):
            raise ValueError(grammar.error_message(self.kind, id))
        if self.layout is None:
            return grammar.stopped if id in (STOP, PAD) else grammar.in_header(grammar.layouts[id - grammar.begin])
        if self.body is None:
            return grammar.after_digit(self.layout, self, id - grammar.digit)
        return grammar.start() if id == END else grammar.in_body(self.layout, self.sizes, self.body, self.count + 1)


class Grammar(IdSpace):
    """The ids that are allowed at each point of a document.

    Attributes:
        kinds: The allowed ids of each kind of state, int64 (n,) ascending. Kinds are few and fixed.
        stopped: The state after STOP.
        end: The kind that allows END only.
    """

    def __init__(self, channels: Sequence[Channel], longest: int) -> None:
        super().__init__(channels, longest)
        self._numbers: dict[tuple[range, ...], int] = {}
        self._code_kinds: dict[ChannelLayout, tuple[np.ndarray, int]] = {}
        self._bodies: dict[tuple[ChannelLayout, tuple[int, ...]], SegmentBody] = {}
        begins = range(self.begin, self.digit)
        self._between = DocumentState(self._add(range(STOP, STOP + 1), begins), 0, self)
        self.stopped = DocumentState(self._add(range(PAD, PAD + 1)), 0, self)
        self.end = self._add(range(END, END + 1))
        for layout in self.layouts:
            codes = np.array([self._add(ids) for ids in layout.ranges])
            self._code_kinds[layout] = codes, self._add(range(END, END + 1), layout.ranges[0])
            self._add_digits(layout)
        self._only: dict[str, int] = {}
        for name in (*(c.name for c in channels), *(str(c.modality) for c in channels)):
            chosen = [p for p in self.layouts if p.channel.name == name]
            chosen = chosen or [p for p in self.layouts if p.channel.modality == name]
            self._only[name] = self._add(*(range(p.begin, p.begin + 1) for p in chosen))
        self.kinds = [torch.tensor([id for ids in ranges for id in ids]) for ranges in self._numbers]
        self._table = np.zeros((len(self.kinds), self.size), bool)
        for row, ids in zip(self._table, self.kinds, strict=True):
            row[ids.numpy()] = True

    def _add(self, *ranges: range) -> int:
        """Return the kind of these ids. A new set of ids defines a new kind."""
        return self._numbers.setdefault(ranges, len(self._numbers))

    def _add_digits(self, layout: ChannelLayout) -> None:
        """Define the kinds of all digits in headers of the channel."""
        if not layout.axes:
            return
        bounds = {layout.largest(())}
        if layout.axes > 1:
            bounds |= _values(lambda n: layout.largest((n,)), 1, layout.largest(()))
        for most in sorted(bounds):
            # prefixes from 1 to high − 1 allow the same digits, as do those from high + 1 to low − 1
            high, low = most // streams.BASE**2, most // streams.BASE
            for prefix in sorted({0, 1, high, high + 1, low}):
                if prefix <= low:
                    self._add(*self.digit_ids(prefix, most))

    def allows(self, kind: int, id: int) -> bool:
        """Return whether the kind contains this id."""
        return 0 <= id < self.size and bool(self._table[kind, id])

    def error_message(self, kind: int, id: int, where: str = "") -> str:
        """Return the message for an id that the kind does not contain."""
        what = f" ({self.describe(id)})" if 0 <= id < self.size else f", which is not 0 to {self.size - 1},"
        ids = self.kinds[kind]
        some = ", ".join(self.describe(int(i)) for i in ids[:3])
        return f"id {id}{what} may not come{where}; {len(ids)} may: {some}{', …' if len(ids) > 3 else ''}"

    def digit_ids(self, prefix: int, largest: int) -> tuple[range, range]:
        """Return the ids of the next digit of a size from 1 to `largest`, after digits with the value `prefix`.

        The first range holds digits that end the size, the second range those that another digit follows.
        """
        base, low = streams.BASE, 0 if prefix else 1  # a size does not begin with the digit 0
        last = max(low, min(base, largest - prefix * base + 1))
        other = max(low, min(base, largest // base - prefix * base + 1))
        first = self.digit
        return range(first + low, first + last), range(first + base + low, first + base + other)

    # -- states -----------------------------------------------------------------------------------

    def start(self, only: str | None = None) -> DocumentState:
        """Return the state between segments. If `only` is a channel or a modality, a segment of it must come next."""
        if only is None:
            return self._between
        if only not in self._only:
            self.layout(only)  # raises with the list of channels
        return DocumentState(self._only[only], 0, self)

    def in_header(
        self, layout: ChannelLayout, sizes: tuple[int, ...] = (), prefix: int = 0, digits: int = 0
    ) -> DocumentState:
        """Return the state after BEGIN, complete `sizes`, and `digits` digits of the next size."""
        if len(sizes) == layout.axes:
            return self.in_body(layout, sizes, self._body(layout, sizes), 0)
        kind = self._numbers[self.digit_ids(prefix, layout.largest(sizes))]
        return DocumentState(kind, layout.digit_place(len(sizes), digits), self, layout, sizes, prefix, digits)

    def after_digit(self, layout: ChannelLayout, state: DocumentState, digit: int) -> DocumentState:
        """Return the state after a digit of a size."""
        assert state.layout is not None  # a header belongs to a channel
        n = state.prefix * streams.BASE + digit % streams.BASE
        if digit >= streams.BASE:
            return self.in_header(layout, state.sizes, n, state.digits + 1)
        return self.in_header(layout, (*state.sizes, n))

    def in_body(self, layout: ChannelLayout, sizes: tuple[int, ...], body: SegmentBody, count: int) -> DocumentState:
        """Return the state after a header and `count` codes."""
        if count == len(body.kinds):
            return self._between
        kind, place = int(body.kinds[count]), int(body.places[count])
        return DocumentState(kind, place, self, layout, sizes, count=count, body=body)

    def _body(self, layout: ChannelLayout, size: tuple[int, ...]) -> SegmentBody:
        if (layout, size) not in self._bodies:
            if len(self._bodies) >= CACHED_BODIES:
                self._bodies.clear()
            quantizer = layout.code_quantizers(size)
            codes, codes_or_end = self._code_kinds[layout]
            kinds = codes[quantizer]
            if not layout.spec.stride:
                fewest, most = layout.count(size)
                kinds[fewest :: layout.quantizers] = codes_or_end
                kinds[most] = self.end
            self._bodies[layout, size] = SegmentBody(kinds, layout.code_places(quantizer))
        return self._bodies[layout, size]


def _values(function: Callable[[int], int], low: int, high: int) -> set[int]:
    """Return all values of a monotone function on the integers low … high."""
    ends = {function(low), function(high)}
    if len(ends) == 1 or high - low == 1:
        return ends
    middle = (low + high) // 2
    return _values(function, low, middle) | _values(function, middle, high)
