"""One id space for several codecs, and conversion between codes and documents of ids (see grammar.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenloom.codecs import Codes, validate

from . import streams
from .channel import Channel
from .grammar import DocumentState, Grammar
from .id_space import DOCUMENT, END, STOP
from .layout import ChannelLayout


class Vocabulary(Grammar):
    """The ids of several codecs and the grammar of their documents. Every document that the grammar allows decodes.

    Args:
        channels: Channels in the order of their ids. Their codecs need `spec.total` and no side information.
        longest: Largest number of ids in a segment, including BEGIN and END. Larger sizes are never allowed.

    Attributes:
        size: Number of ids.
        places: Number of places; see transformer.py.
        kinds: The allowed ids of each kind of state, int64 (n,) ascending.

    Raises:
        ValueError: If a codec cannot enter, two channels share a name, or a pattern or setting is invalid.
    """

    def __init__(self, channels: Sequence[Channel], longest: int = 4096) -> None:
        names = [channel.name for channel in channels]
        if not names:
            raise ValueError("a vocabulary needs at least one channel")
        if not validate.is_integer(longest, 16, 2**24):
            raise ValueError(f"longest must be an integer from 16 to 2**24, got {longest!r:.80}")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"names of channels must be unique, got {repeated[0]!r} twice")
        self.channels = {channel.name: channel for channel in channels}
        self.longest = longest
        super().__init__(channels, longest)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each channel's codec, in hex."""
        return {name: channel.codec.fingerprint.hex() for name, channel in self.channels.items()}

    def channel(self, to: str) -> Channel:
        """Return the channel named `to`, else the first channel of the modality `to`, else raise ValueError."""
        return self.layout(to).channel

    def range(self, name: str, quantizer: int) -> range:
        """Return the ids of one quantizer's codes."""
        layout = self.layout(name)
        if not 0 <= quantizer < layout.quantizers:
            raise ValueError(f"{name} has quantizers 0 to {layout.quantizers - 1}, got {quantizer}")
        return layout.ranges[quantizer]

    # -- codes → ids ------------------------------------------------------------------------------

    def header(self, name: str, size: tuple[int, ...] = ()) -> Tensor:
        """Return the first ids of a segment, BEGIN and the digits of its sizes, int64 (n,).

        Raises ValueError if a segment of this size would exceed `longest`.
        """
        layout = self.layout(name)
        layout.check_size(tuple(size))
        return torch.tensor([layout.begin, *(self.digit + d for n in size for d in streams.varint(n))])

    def segment(self, name: str, codes: Codes) -> list[Tensor]:
        """Return the ids of one segment per item, int64 (n,) each.

        Args:
            name: Name of the channel.
            codes: Codes of the channel's codec at its setting.

        Raises:
            ValueError: If the codes do not fit, or an item takes more than `longest` ids.
        """
        layout = self.layout(name)
        validate.codes(codes, layout.channel.codec)
        used = int(codes.quantizers().min()) if codes.lengths is None else codes.indices.shape[1]
        if not used == codes.indices.shape[1] == layout.quantizers:
            raise ValueError(
                f"channel {name} has {layout.quantizers} quantizers, got {min(used, codes.indices.shape[1])}; "
                f"encode with setting={layout.channel.setting!r}"
            )
        return [self._segment(layout, codes, item) for item in range(len(codes))]

    def _segment(self, layout: ChannelLayout, codes: Codes, item: int) -> Tensor:
        size = tuple(codes.sizes[item].tolist()) if layout.axes else ()
        if codes.lengths is None:
            ids, tail = layout.ids(codes.indices[(item, slice(None), *map(slice, layout.spec.grid(size)))]), []
        else:
            ids, tail = layout.ids(codes.indices[item, :, : int(codes.lengths[item])]), [END]
        head = self.header(layout.channel.name, size)
        if len(ids) > layout.room:
            raise ValueError(f"a segment of {layout.channel.name} has at most {layout.room} codes, got {len(ids)}")
        return torch.cat([head, ids, torch.tensor(tail, dtype=torch.int64)])

    # -- ids → codes and states -------------------------------------------------------------------

    def parse(self, ids: Tensor) -> list[tuple[str, Codes]]:
        """Return the channel's name and the codes (a batch of one) of each segment of a document.

        Args:
            ids: int64 (n,), DOCUMENT first. The document may be cut off: an incomplete last segment is left out.

        Raises:
            ValueError: If the ids break the grammar.
        """
        row = self._row(ids)
        found, _, _ = self._scan(row)
        return [(s.layout.channel.name, s.layout.codes(row[s.start : s.stop], s.sizes)) for s in found]

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kind and the place after each id of a document, int64 (n,) both. Raises as `parse` does."""
        _, kinds, places = self._scan(self._row(ids))
        return torch.from_numpy(kinds), torch.from_numpy(places)

    def read(self, ids: Tensor) -> DocumentState:
        """Return the state after a document that may be cut off. Raises as `parse` does."""
        state = self.start()
        for id in self._row(ids)[1:].tolist():
            state = state.advance(id)
        return state

    def mask(self, state: DocumentState) -> Tensor:
        """Return whether each id is allowed next, bool (size,)."""
        return torch.from_numpy(self._table[state.kind].copy())

    def _row(self, ids: Tensor) -> np.ndarray:
        if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
            kind = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"a document must be an int64 tensor with one axis, got {kind}")
        row = ids.cpu().numpy()
        if not len(row) or row[0] != DOCUMENT:
            raise ValueError(f"a document must begin with DOCUMENT ({DOCUMENT}), got {row[:1].tolist() or 'nothing'}")
        if (stray := row[(row < 0) | (row >= self.size)]).size:
            raise ValueError(f"an id must be 0 to {self.size - 1}, got {stray[0]}")
        return row

    def _scan(self, row: np.ndarray) -> tuple[list[_ParsedSegment], np.ndarray, np.ndarray]:
        """Return the complete segments of a document, and kind and place after each id.

        The scan assumes valid ids and stops where it cannot continue. One look-up at the end checks all ids.
        """
        kinds = np.full(len(row), self._between.kind)
        places = np.zeros(len(row), np.int64)
        ends = np.flatnonzero(row == END)
        found: list[_ParsedSegment] = []
        at = 1
        while at < len(row) and self.begin <= row[at] < self.digit:
            layout = self.layouts[row[at] - self.begin]
            state = self.in_header(layout)
            kinds[at], places[at] = state.kind, state.place
            while state.body is None and at + 1 < len(row) and self._table[state.kind, row[at + 1]]:
                at += 1
                state = state.advance(int(row[at]))
                kinds[at], places[at] = state.kind, state.place
            if (body := state.body) is None:
                break
            if layout.spec.stride:
                close = at + len(body.kinds)  # position of the last id
            else:
                later = ends[np.searchsorted(ends, at) :]
                close = int(later[0]) if len(later) else len(row)
            count = min(close - at, len(row) - at, len(body.kinds))
            kinds[at : at + count], places[at : at + count] = body.kinds[:count], body.places[:count]
            if close >= len(row) or close - at > len(body.kinds):
                break
            found.append(_ParsedSegment(layout, state.sizes, at + 1, close + bool(layout.spec.stride)))
            at = close + 1
        if at < len(row) and row[at] == STOP:
            kinds[at:] = self.stopped.kind
        wrong = np.flatnonzero(~self._table[kinds[:-1], row[1:]])
        if wrong.size:
            first = int(wrong[0])
            raise ValueError(self.error_message(int(kinds[first]), int(row[first + 1]), f" at {first + 1}"))
        return found, kinds, places


class _ParsedSegment(NamedTuple):
    """A complete segment. Its codes are the ids from `start` to `stop` − 1."""

    layout: ChannelLayout
    sizes: tuple[int, ...]
    start: int
    stop: int
