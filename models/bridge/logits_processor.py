"""The grammar of a merged vocabulary as a mask on a language model's scores, for `generate()`.

Between segments, the host's own ids and the BEGINs of the channels are allowed. Within a segment, the grammar decides.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..vocabulary import END, DocumentState, Vocabulary, streams
from ..vocabulary.layout import ChannelLayout

Ranges = tuple[range, ...]


class SequenceState(NamedTuple):
    """Position of one sequence in the grammar."""

    state: DocumentState | None
    """None if the sequence broke the grammar, as a beam of probability 0 can."""
    begun: bool = False
    """Whether a segment has begun since the end of the prompt."""


class GrammarConstraint:
    """Sets the scores of ids that the grammar excludes to −∞. `Bridge.logits_processor` describes the arguments."""

    def __init__(
        self, vocabulary: Vocabulary, first: int, *, only: str | None = None,
        sizes: Mapping[str, tuple[int, ...]] | None = None, eos: int | None = None, max_length: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:  # fmt: skip
        self.vocabulary, self.first, self.shift = vocabulary, first, first - END
        self.only, self.sizes, self.eos = only, dict(sizes or {}), eos
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        begins = vocabulary.kinds[vocabulary.start(only).kind].tolist()
        self._layouts = [vocabulary.layouts[id - vocabulary.begin] for id in begins if id >= vocabulary.begin]
        self._shortest = {x: _min_length(x, self.sizes.get(x.channel.name)) for x in vocabulary.layouts}
        self._rows: dict[bytes, SequenceState] = {}
        self._width = self._limit = -1
        self._ranges: dict[int, Ranges] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return masked scores (rows, ids) of input_ids (rows, length) as a new tensor.

        Raises ValueError if a prompt breaks the grammar, or the model was not resized.
        """
        if scores.shape[-1] < (size := self.vocabulary.size + self.shift):
            raise ValueError(
                f"the model scores {scores.shape[-1]} ids, the merged tokenizer has {size}: "
                "give the model to Bridge.merge, or resize its embeddings"
            )
        rows = self._follow(input_ids)
        left = self._limit - input_ids.shape[1] if self._limit >= 0 else None
        groups = defaultdict(list)
        for i, row in enumerate(rows):
            groups[self._allowed(row, left)].append(i)
        out = torch.full_like(scores, -torch.inf)
        for ranges, members in groups.items():
            where = slice(None) if len(groups) == 1 else torch.tensor(members, device=scores.device)
            parts = [scores[where, ids.start : ids.stop] for ids in ranges]
            # another processor, such as a ban of repetitions, may exclude every allowed id: allow them again
            excluded = torch.stack([part.amax(1, keepdim=True) for part in parts]).amax(0) == -torch.inf
            for ids, part in zip(ranges, parts, strict=True):
                out[where, ids.start : ids.stop] = part.masked_fill(excluded, 0.0)
        return out

    # -- the state of each row --------------------------------------------------------------------

    def _follow(self, input_ids: Tensor) -> list[SequenceState]:
        """Return the state of each row from that of its prefix in the last call. Beam search may reorder rows."""
        ids = input_ids.cpu().contiguous().numpy()
        before = [self._rows.get(row[:-1].tobytes()) for row in ids]
        if ids.shape[1] != self._width + 1 or None in before:
            before = [None] * len(ids)
            self._begin(ids.shape[1])
        rows = [
            self._read(row.tolist()) if known is None else self._after(known, int(row[-1]))
            for row, known in zip(ids, before, strict=True)
        ]
        self._rows = {row.tobytes(): state for row, state in zip(ids, rows, strict=True)}
        self._width = ids.shape[1]
        return rows

    def _begin(self, width: int) -> None:
        """Set the limit at the start of a call of `generate`."""
        limits = [self.max_length] if self.max_length is not None else []
        limits += [width + self.max_new_tokens] if self.max_new_tokens is not None else []
        self._limit = min(limits, default=-1)
        shortest = min(self._shortest[layout] for layout in self._layouts)
        if limits and self.only is not None and shortest > (left := self._limit - width):
            raise ValueError(f"a segment of {self.only} takes at least {shortest} ids; the limit leaves {left}")

    def _read(self, ids: list[int]) -> SequenceState:
        """Return the state after a prompt. Raises ValueError if the prompt breaks the grammar."""
        row = SequenceState(self.vocabulary.start())
        for at, id in enumerate(ids):
            state, row = row.state, SequenceState(self._after(row, id).state)
            if row.state is None:
                known = self.first <= id < self.vocabulary.size + self.shift
                what = self.vocabulary.describe(id - self.shift) if known else "text"
                where = "" if state.between_segments else f" within a segment of {state.channel.name}"
                raise ValueError(f"the prompt breaks the grammar at {at}: {what} (id {id}) may not come{where}")
        return SequenceState(row.state, row.state.layout in self._layouts)

    def _after(self, row: SequenceState, id: int) -> SequenceState:
        """Return the state after one more id."""
        state, own = row.state, id - self.shift
        if state is None or (id < self.first and state.between_segments):
            return row
        if id < self.first or not self.vocabulary.allows(state.kind, own):
            return SequenceState(None, row.begun)
        return SequenceState(state.advance(own), True)

    # -- allowed ids ------------------------------------------------------------------------------

    def _allowed(self, row: SequenceState, left: int | None) -> Ranges:
        """Return the allowed ids of the host's tokenizer; `left` more ids, including this one, reach the limit."""
        state = row.state
        if state is None:
            return (range(self.first),)
        if state.between_segments and self.only is not None and row.begun:
            return (range(self.eos, self.eos + 1),)
        if state.between_segments:
            fitting = [layout for layout in self._layouts if left is None or self._shortest[layout] <= left]
            begins = [layout.begin + self.shift for layout in fitting]
            text = [] if self.only is not None else [range(self.first)]
            return (*text, *(range(id, id + 1) for id in begins))
        if state.reads_size:
            return self._digits(state, left)
        ranges = self._kind(state.kind)
        closing = self._kind(self.vocabulary.end)
        may_end = ranges[0] == closing[0] and len(ranges) > 1
        return closing if may_end and left is not None and left <= state.layout.quantizers else ranges

    def _digits(self, state: DocumentState, left: int | None) -> Ranges:
        """Return the ids of the next digit, for the requested size or for all sizes that fit."""
        layout, axis = state.layout, len(state.sizes)
        if size := self.sizes.get(state.channel.name):
            id = self.vocabulary.digit + streams.varint(size[axis])[state.digits] + self.shift
            return (range(id, id + 1),)
        if left is None:
            return self._kind(state.kind)
        rest = (1,) * (layout.axes - axis - 1)
        read = 1 + sum(len(streams.varint(n)) for n in state.sizes) + state.digits

        def too_long(n: int) -> bool:
            return _min_length(layout, (*state.sizes, n, *rest)) - read > left

        most = bisect.bisect_left(range(1, layout.largest(state.sizes) + 1), True, key=too_long)
        ranges = self.vocabulary.digit_ids(state.prefix, most) if most else ()
        moved = tuple(range(r.start + self.shift, r.stop + self.shift) for r in ranges if len(r))
        return moved or self._kind(state.kind)  # a segment that the prompt began has no room

    def _kind(self, kind: int) -> Ranges:
        """Return the ids of a kind in the host's tokenizer, as ranges."""
        if kind not in self._ranges:
            ids = self.vocabulary.kinds[kind] + self.shift
            ends = [0, *((ids.diff() != 1).nonzero().flatten() + 1).tolist(), len(ids)]
            pairs = itertools.pairwise(ends)
            self._ranges[kind] = tuple(range(int(ids[a]), int(ids[b - 1]) + 1) for a, b in pairs)
        return self._ranges[kind]


def _min_length(layout: ChannelLayout, size: tuple[int, ...] | None) -> int:
    """Return the smallest number of ids of a segment of this size, or of the smallest size."""
    size = (1,) * layout.axes if size is None else size
    digits = sum(len(streams.varint(n)) for n in size)
    return 1 + digits + layout.count(size)[0] + (not layout.spec.stride)
