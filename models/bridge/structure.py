"""The grammar of a merged vocabulary as a mask on a language model's scores, for `generate()`.

Between segments the host's own ids may come, and the BEGINs of the channels; within a segment what the grammar allows.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..vocabulary import streams
from ..vocabulary.grammar import END, Part, State
from ..vocabulary.vocabulary import Vocabulary

Ranges = tuple[range, ...]


class Row(NamedTuple):
    """Where one sequence stands.

    state  of the vocabulary's grammar, between segments where text is; None where the sequence has left it, as beams
           of probability 0 do
    begun  whether a segment has begun since the prompt ended
    """

    state: State | None
    begun: bool = False


class Structure:
    """`(input_ids, scores) → scores`, −∞ for what must not come next. See `Bridge.logits_processor`.

    first       the id in the host's vocabulary of the vocabulary's END
    only        the channel or modality of the one segment that is wanted; None: text and all channels
    sizes       channel → the size of all its segments
    eos         what follows the segment of `only`
    max_length  of the whole sequence, prompt and padding included; None: no segment is refused for its length
    """

    def __init__(
        self, vocabulary: Vocabulary, first: int, *, only: str | None = None,
        sizes: Mapping[str, tuple[int, ...]] | None = None, eos: int | None = None, max_length: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:  # fmt: skip
        self.vocabulary, self.first, self.shift = vocabulary, first, first - END
        self.only, self.sizes, self.eos = only, dict(sizes or {}), eos
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        begins = vocabulary.kinds[vocabulary.start(only).kind].tolist()
        self._wanted = [vocabulary.parts[id - vocabulary.begin] for id in begins if id >= vocabulary.begin]
        self._shortest = {part: _cost(part, self.sizes.get(part.channel.name)) for part in vocabulary.parts}
        self._rows: dict[bytes, Row] = {}
        self._width = self._limit = -1
        self._ranges: dict[int, Ranges] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids int64 (rows, length), scores (rows, host's ids and more) → scores of the same shape, a new tensor.

        Raises ValueError for a prompt that breaks the grammar, and for scores of a model that was not resized.
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
            # where something else has forbidden all that the grammar allows, as a ban of repetitions does, the grammar
            # has the last word
            silent = torch.stack([part.amax(1, keepdim=True) for part in parts]).amax(0) == -torch.inf
            for ids, part in zip(ranges, parts, strict=True):
                out[where, ids.start : ids.stop] = part.masked_fill(silent, 0.0)
        return out

    # -- where each row stands --------------------------------------------------------------------

    def _follow(self, input_ids: Tensor) -> list[Row]:
        """Each row's state: one step on from that of its prefix, whichever row (beam) that was in the last call."""
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
        """A new call of generate(): the limit counts from here."""
        limits = [self.max_length] if self.max_length is not None else []
        limits += [width + self.max_new_tokens] if self.max_new_tokens is not None else []
        self._limit = min(limits, default=-1)
        shortest = min(self._shortest[part] for part in self._wanted)
        if limits and self.only is not None and shortest > (left := self._limit - width):
            raise ValueError(f"a segment of {self.only} takes {shortest} ids at least; the limit leaves {left}")

    def _read(self, ids: list[int]) -> Row:
        """The state after a prompt; ValueError where it breaks the grammar."""
        row = Row(self.vocabulary.start())
        for at, id in enumerate(ids):
            state, row = row.state, Row(self._after(row, id).state)
            if row.state is None:
                known = self.first <= id < self.vocabulary.size + self.shift
                what = self.vocabulary.describe(id - self.shift) if known else "text"
                where = "" if state.between else f" within a segment of {state.channel.name}"
                raise ValueError(f"the prompt breaks the grammar at {at}: {what} (id {id}) may not come{where}")
        return Row(row.state, row.state.part in self._wanted)

    def _after(self, row: Row, id: int) -> Row:
        """A row after one id more."""
        state, own = row.state, id - self.shift
        if state is None or (id < self.first and state.between):
            return row
        if id < self.first or not self.vocabulary.allows(state.kind, own):
            return Row(None, row.begun)
        return Row(state.advance(own), True)

    # -- what may come ----------------------------------------------------------------------------

    def _allowed(self, row: Row, left: int | None) -> Ranges:
        """Ids of the host's vocabulary; `left` ids may still come, this one included."""
        state = row.state
        if state is None:
            return (range(self.first),)
        if state.between and self.only is not None and row.begun:
            return (range(self.eos, self.eos + 1),)
        if state.between:
            fitting = [part for part in self._wanted if left is None or self._shortest[part] <= left]
            begins = [part.begin + self.shift for part in fitting]
            text = [] if self.only is not None else [range(self.first)]
            return (*text, *(range(id, id + 1) for id in begins))
        if state.reads_size:
            return self._digits(state, left)
        ranges = self._kind(state.kind)
        closing = self._kind(self.vocabulary.end)
        may_end = ranges[0] == closing[0] and len(ranges) > 1
        return closing if may_end and left is not None and left <= state.part.quantizers else ranges

    def _digits(self, state: State, left: int | None) -> Ranges:
        """The next digit of a size: of the one that is wanted, or of all for which there is room."""
        part, axis = state.part, len(state.sizes)
        if size := self.sizes.get(state.channel.name):
            id = self.vocabulary.digit + streams.varint(size[axis])[state.digits] + self.shift
            return (range(id, id + 1),)
        if left is None:
            return self._kind(state.kind)
        rest = (1,) * (part.axes - axis - 1)
        read = 1 + sum(len(streams.varint(n)) for n in state.sizes) + state.digits

        def too_long(n: int) -> bool:
            return _cost(part, (*state.sizes, n, *rest)) - read > left

        most = bisect.bisect_left(range(1, part.largest(state.sizes) + 1), True, key=too_long)
        ranges = part.digit_ids(state.prefix, most) if most else ()
        moved = tuple(range(r.start + self.shift, r.stop + self.shift) for r in ranges if len(r))
        return moved or self._kind(state.kind)  # a prompt began what has no room

    def _kind(self, kind: int) -> Ranges:
        """The ids of a kind in the host's vocabulary, as ranges."""
        if kind not in self._ranges:
            ids = self.vocabulary.kinds[kind] + self.shift
            ends = [0, *((ids.diff() != 1).nonzero().flatten() + 1).tolist(), len(ids)]
            pairs = itertools.pairwise(ends)
            self._ranges[kind] = tuple(range(int(ids[a]), int(ids[b - 1]) + 1) for a, b in pairs)
        return self._ranges[kind]


def _cost(part: Part, size: tuple[int, ...] | None) -> int:
    """Fewest ids of a segment: BEGIN, digits, codes, END; of a given size, or of the smallest."""
    size = (1,) * part.axes if size is None else size
    digits = sum(len(streams.varint(n)) for n in size)
    return 1 + digits + part.count(size)[0] + (not part.spec.stride)
