"""One id space for every codec, and the grammar that says which ids may come next.

    document   DOCUMENT segment… STOP
    segment    BEGIN of its channel, size digits, codes, and END where lengths vary
    sizes      height and width of an image, samples of a sound, nothing for text (see streams.varint)

Ids: PAD, DOCUMENT, STOP, END, one BEGIN a channel, 256 size digits, then a contiguous range for each
quantizer of each channel. Any document of ids that the grammar allows parses, and its segments decode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenloom.codecs import validate
from tokenloom.codecs.types import Codes

from . import streams
from .grammar import DIGITS, DOCUMENT, END, PAD, SPECIALS, STOP, Channel, Part, State

__all__ = ["DOCUMENT", "END", "PAD", "STOP", "Channel", "State", "Vocabulary"]


class Vocabulary:
    """The ids of several codecs, and their grammar.

    channels  in the order of their ids; a codec needs `spec.total` and no side information
    longest   ids of one segment at most, BEGIN and END included: sizes that need more are never offered

    size, places  how many ids and places there are
    kinds         kind → the ids that may come, (n,) int64 ascending; few, and fixed at construction
    Raises ValueError for channels that cannot enter, two of one name, an unknown pattern or setting.
    """

    PAD, DOCUMENT, STOP, END = PAD, DOCUMENT, STOP, END

    def __init__(self, channels: Sequence[Channel], longest: int = 4096) -> None:
        names = [channel.name for channel in channels]
        if not names:
            raise ValueError("a vocabulary needs at least one channel")
        if not validate.is_integer(longest, 16, 2**24):
            raise ValueError(f"longest {longest!r:.80} is no whole number of ids from 16 to 2**24")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two channels are called {repeated[0]!r}; a name stands for one codec")
        self.channels = {channel.name: channel for channel in channels}
        self.longest = longest
        self.begin = len(SPECIALS)
        self.digit = self.begin + len(names)
        self.size, self.places = self.digit + DIGITS, 1
        self._numbers: dict[tuple[range, ...], int] = {}
        begins = range(self.begin, self.digit)
        self._between = State(self.add(range(STOP, STOP + 1), begins), 0, self)
        self.over = State(self.add(range(PAD, PAD + 1)), 0, self)
        self.end = self.add(range(END, END + 1))
        self.parts: list[Part] = []
        for channel in channels:
            self.parts.append(part := Part(self, channel))
            self.size += sum(part.entries)
            self.places += part.places
        self._only = {to: self.add(*self._begins(to)) for to in (*names, *(str(c.modality) for c in channels))}
        self.kinds = [torch.tensor([i for part in ranges for i in part]) for ranges in self._numbers]
        self._table = np.zeros((len(self.kinds), self.size), bool)
        for row, ids in zip(self._table, self.kinds, strict=True):
            row[ids.numpy()] = True

    # -- ids ------------------------------------------------------------------------------------

    @property
    def fingerprints(self) -> dict[str, str]:
        """Channel → the fingerprint of its codec, in hex."""
        return {name: channel.codec.fingerprint.hex() for name, channel in self.channels.items()}

    def channel(self, to: str) -> Channel:
        """The channel of that name, else the first of that modality; ValueError with what there is."""
        return self._part(to).channel

    def range(self, name: str, quantizer: int) -> range:
        """The ids of one quantizer's codes."""
        part = self._part(name)
        if not 0 <= quantizer < part.quantizers:
            raise ValueError(f"{name} takes part with quantizers 0 to {part.quantizers - 1}, not {quantizer}")
        return part.ranges[quantizer]

    def describe(self, id: int) -> str:
        """What an id stands for, in words."""
        if 0 <= id < self.begin:
            return SPECIALS[id]
        if self.begin <= id < self.digit:
            return f"BEGIN {self.parts[id - self.begin].channel.name}"
        if self.digit <= id < self.digit + DIGITS:
            return f"size digit {id - self.digit}"
        for part in self.parts:
            for quantizer, ids in enumerate(part.ranges):
                if id in ids:
                    return f"code {id - ids.start} of {part.channel.name}, quantizer {quantizer}"
        raise ValueError(f"id {id} is none of 0 to {self.size - 1}")

    # -- codes ↔ ids ----------------------------------------------------------------------------

    def header(self, name: str, size: tuple[int, ...] = ()) -> Tensor:
        """How a segment begins: BEGIN and the digits of its sizes, int64. ValueError for sizes beyond `longest`."""
        part = self._part(name)
        part.check(tuple(size))
        return torch.tensor([part.begin, *(self.digit + d for n in size for d in streams.varint(n))])

    def segment(self, name: str, codes: Codes) -> list[Tensor]:
        """Codes of a channel → the ids of one segment an item, int64.

        Raises ValueError for codes of another codec or number of quantizers, and for an item that
        takes more than `longest` ids.
        """
        part = self._part(name)
        validate.codes(codes, part.channel.codec)
        used = int(codes.quantizers().min()) if codes.lengths is None else codes.indices.shape[1]
        if not used == codes.indices.shape[1] == part.quantizers:
            raise ValueError(
                f"{name} takes part with {part.quantizers} quantizers, not {min(used, codes.indices.shape[1])}; "
                f"encode with setting={part.channel.setting!r}"
            )
        return [self._segment(part, codes, item) for item in range(len(codes))]

    def _segment(self, part: Part, codes: Codes, item: int) -> Tensor:
        size = tuple(codes.sizes[item].tolist()) if part.axes else ()
        if codes.lengths is None:
            ids, tail = part.ids(codes.indices[(item, slice(None), *map(slice, part.spec.grid(size)))]), []
        else:
            ids, tail = part.ids(codes.indices[item, :, : int(codes.lengths[item])]), [END]
        head = self.header(part.channel.name, size)
        if len(ids) > part.room:
            raise ValueError(f"{part.channel.name}: {len(ids)} codes in one segment; {part.room} at most")
        return torch.cat([head, ids, torch.tensor(tail, dtype=torch.int64)])

    def parse(self, ids: Tensor) -> list[tuple[str, Codes]]:
        """A document → the channel and the codes (a batch of one) of each segment.

        The exact inverse of joining segments between DOCUMENT and STOP. A document may be cut off: a
        segment that lacks its end is left out. Raises ValueError where ids break the grammar.
        """
        row = self._row(ids)
        found, _, _ = self._scan(row)
        return [(s.part.channel.name, s.part.codes(row[s.start : s.stop], s.sizes)) for s in found]

    # -- the grammar ----------------------------------------------------------------------------

    def start(self, only: str | None = None) -> State:
        """The state after DOCUMENT, and after every segment.

        only  a channel or a modality: the next segment is one of these, and STOP may not come before it
        """
        if only is None:
            return self._between
        if only not in self._only:
            self.channel(only)  # which names what there is
        return State(self._only[only], 0, self)

    def read(self, ids: Tensor) -> State:
        """The state after a whole prompt, DOCUMENT first."""
        state = self.start()
        for id in self._row(ids)[1:].tolist():
            state = state.advance(id)
        return state

    def mask(self, state: State) -> Tensor:
        """(size,) bool: the ids that may come next."""
        return torch.from_numpy(self._table[state.kind].copy())

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A document, whole or cut off → the kind and the place of what comes after each id, (len,) int64 both."""
        _, kinds, places = self._scan(self._row(ids))
        return torch.from_numpy(kinds), torch.from_numpy(places)

    def allows(self, kind: int, id: int) -> bool:
        return 0 <= id < self.size and bool(self._table[kind, id])

    def complaint(self, kind: int, id: int, where: str = "") -> str:
        """One line: `id` may not come where `kind` says what may."""
        what = f" ({self.describe(id)})" if 0 <= id < self.size else f", none of 0 to {self.size - 1}"
        ids = self.kinds[kind]
        some = ", ".join(self.describe(int(i)) for i in ids[:3])
        return f"id {id}{what} may not come{where}; {len(ids)} may: {some}{', …' if len(ids) > 3 else ''}"

    def number(self, *ranges: range) -> int:
        """The kind of these ids."""
        return self._numbers[ranges]

    def add(self, *ranges: range) -> int:
        """The same for ids that may be no kind yet; only while the vocabulary is built."""
        return self._numbers.setdefault(ranges, len(self._numbers))

    def _begins(self, to: str) -> Iterator[range]:
        parts = [p for p in self.parts if p.channel.name == to] or [p for p in self.parts if p.channel.modality == to]
        return (range(part.begin, part.begin + 1) for part in parts)

    def _part(self, to: str) -> Part:
        for part in self.parts:
            if part.channel.name == to:
                return part
        for part in self.parts:
            if part.channel.modality == to:
                return part
        there = ", ".join(f"{name} ({channel.modality})" for name, channel in self.channels.items())
        raise ValueError(f"{to!r} is no channel and no modality of this vocabulary; it has {there}")

    def _row(self, ids: Tensor) -> np.ndarray:
        if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
            kind = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"a document is an int64 tensor of one axis, not {kind}")
        row = ids.cpu().numpy()
        if not len(row) or row[0] != DOCUMENT:
            raise ValueError(f"a document begins with DOCUMENT ({DOCUMENT}), not with {row[:1].tolist() or 'nothing'}")
        if (stray := row[(row < 0) | (row >= self.size)]).size:
            raise ValueError(f"id {stray[0]} is none of 0 to {self.size - 1}")
        return row

    def _scan(self, row: np.ndarray) -> tuple[list[_Segment], np.ndarray, np.ndarray]:
        """A document → its complete segments, and kind and place after each id.

        It trusts what it reads as far as it goes and leaves off at what it cannot follow; one look-up at
        the end then tells whether every id was allowed, and so refuses what it trusted wrongly.
        """
        kinds = np.full(len(row), self._between.kind)
        places = np.zeros(len(row), np.int64)
        ends = np.flatnonzero(row == END)
        found: list[_Segment] = []
        at = 1
        while at < len(row) and self.begin <= row[at] < self.digit:
            state = self.parts[row[at] - self.begin].opened
            kinds[at], places[at] = state.kind, state.place
            while state.body is None and at + 1 < len(row) and self._table[state.kind, row[at + 1]]:
                at += 1
                state = state.advance(int(row[at]))
                kinds[at], places[at] = state.kind, state.place
            if state.body is None:
                break
            body, part = state.body, state.part
            if part.spec.stride:
                close = at + len(body.kinds)  # its last id
            else:
                later = ends[np.searchsorted(ends, at) :]
                close = int(later[0]) if len(later) else len(row)
            count = min(close - at, len(row) - at, len(body.kinds))
            kinds[at : at + count], places[at : at + count] = body.kinds[:count], body.places[:count]
            if close >= len(row) or close - at > len(body.kinds):
                break
            found.append(_Segment(part, state.sizes, at + 1, close + bool(part.spec.stride)))
            at = close + 1
        if at < len(row) and row[at] == STOP:
            kinds[at:] = self.over.kind
        wrong = np.flatnonzero(~self._table[kinds[:-1], row[1:]])
        if wrong.size:
            first = int(wrong[0])
            raise ValueError(self.complaint(int(kinds[first]), int(row[first + 1]), f" at {first + 1}"))
        return found, kinds, places


class _Segment(NamedTuple):
    """A complete segment: its codes are ids start … stop − 1 of the document."""

    part: Part
    sizes: tuple[int, ...]
    start: int
    stop: int
