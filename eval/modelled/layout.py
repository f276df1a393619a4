"""Layout of codes as rows of ids for the transformer of the modelled rate, and batches of rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tokenloom.codecs.types import Codes, CodeSpec
from tokenloom.models.vocabulary import streams

PATTERN = "raster"
ROWS, COLUMNS = 16, 64
"""Rows and columns of an image with their own place; later ones share the last. Other signals have PLACES places."""
PLACES = ROWS * COLUMNS
BEGIN, END = 0, 1
FIRST = 2
"""First id of the codes."""


class CodeLayout:
    """Codes of one codec as ids: BEGIN, END, then a range per quantizer.

    If lengths vary, END follows the last code, so that the end of an item costs bits. If the signal's size determines
    the grid, there is no END, and the size is free.
    """

    def __init__(self, spec: CodeSpec) -> None:
        self.spec = spec
        borders = list(itertools.accumulate(spec.codebook_sizes, initial=FIRST))
        self.starts = torch.tensor(borders[:-1])
        self.size = borders[-1]
        self.allowed = [torch.arange(*pair) for pair in itertools.pairwise(borders)]
        if not spec.stride:
            self.allowed[0] = torch.cat([torch.tensor([END]), self.allowed[0]])

    def row(self, codes: Codes, item: int) -> Tensor:
        """Return one item as int64 (4, tokens): input ids, target ids, quantizers and places of the targets.

        The input of a target is the token before it.
        """
        one = codes[item].to("cpu")
        grid = tuple(one.indices.shape[2:])
        if one.lengths is not None:
            grid = (int(one.lengths[0]),)
        elif self.spec.stride:
            grid = self.spec.grid(tuple(one.sizes[0].tolist()))
        indices = one.indices[(0, slice(int(one.quantizers()[0])), *(slice(n) for n in grid))]
        values, quantizer = streams.flatten(indices, PATTERN)
        position = streams.order(grid, len(indices), PATTERN)[:, 0]
        if len(grid) == 2:
            row, column = position // grid[1], position % grid[1]
            place = row.clamp(max=ROWS - 1) * COLUMNS + column.clamp(max=COLUMNS - 1)
        else:
            place = position.clamp(max=PLACES - 1)
        targets = values + self.starts[quantizer]
        if not self.spec.stride:
            targets, quantizer = _append(targets, END), _append(quantizer, 0)
            place = _append(place, min(len(place), PLACES - 1))
        inputs = torch.cat([torch.tensor([BEGIN]), targets[:-1]])
        return torch.stack([inputs, targets, quantizer, place])


def _append(x: Tensor, value: int) -> Tensor:
    return torch.cat([x, torch.tensor([value])])


def windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first, end, first scored position) of windows that cover a row, half a context apart."""
    half, done = context // 2, 0
    while done < length:
        first = max(0, done - half)
        end = min(first + context, length)
        yield first, end, done
        done = end


def packed(rows: Sequence[Tensor], context: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pack the windows of rows (see `CodeLayout.row`) into batches of `size` packed rows.

    Yields:
        A batch int64 (5, size, context), whose fifth component is the document number. For each of its tokens: its
        row, int64 (tokens,), and whether it is scored, bool (tokens,).
    """
    bins: list[list[tuple[int, int, int, int]]] = [[]]
    room = context
    for i, row in enumerate(rows):
        for first, end, scored in windows(row.shape[1], context):
            if end - first > room:
                bins.append([])
                room = context
            bins[-1].append((i, first, end, scored))
            room -= end - first
    for chunk in (bins[i : i + size] for i in range(0, len(bins), size)):
        batch = torch.zeros(5, len(chunk), context, dtype=torch.int64)
        batch[1] = FIRST  # padding needs an allowed target; it is not scored
        owner, scored_at = torch.zeros(2, len(chunk), context, dtype=torch.int64)
        for r, pieces in enumerate(chunk):
            at = 0
            for document, (i, first, end, scored) in enumerate(pieces, start=1):
                here = slice(at, at + end - first)
                batch[:4, r, here] = rows[i][:, first:end]
                batch[4, r, here] = document
                owner[r, here] = i
                scored_at[r, at + scored - first : at + end - first] = 1
                at += end - first
        yield batch, owner.flatten(), scored_at.flatten().bool()


def endless(rows: Sequence[Tensor], context: int, tokens: int, seed: int) -> Iterator[Tensor]:
    """Yield batches int64 (5, tokens / context, context) without end.

    Every pass has a new order of the rows. Rows are cut at the end of a packed row.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting, count, document = [], 0, 0
    while True:
        for i in torch.randperm(len(rows), generator=generator).tolist():
            document += 1
            waiting.append(torch.cat([rows[i], torch.full((1, rows[i].shape[1]), document)]))
            count += rows[i].shape[1]
            if count >= tokens:
                stream = torch.cat(waiting, 1)
                ready = count // tokens * tokens
                for part in stream[:, :ready].split(tokens, 1):
                    yield part.reshape(5, -1, context)
                waiting, count = [stream[:, ready:]], count - ready
