"""Split ids of a merged tokenizer into segments and text, and decode them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenloom.codecs import Codes

from ..vocabulary import DOCUMENT, END, Vocabulary, segments, truncation


def is_batch(ids: Any) -> bool:
    """Return whether ids have two axes."""
    if isinstance(ids, Tensor | np.ndarray):
        return ids.ndim == 2
    return bool(len(ids)) and not np.isscalar(ids[0])


def parse(
    vocabulary: Vocabulary, first: int, special_ids: Sequence[int], ids: Tensor | Sequence[int]
) -> list[tuple[str | None, Any]]:
    """Split ids into segments and text; see `Bridge.parse`. `special_ids` may follow an incomplete segment."""
    shift = first - END
    row = _as_row(ids)
    if (stray := row[(row < 0) | (row >= vocabulary.size + shift)]).size:
        raise ValueError(f"an id must be 0 to {vocabulary.size + shift - 1}, got {stray[0]}")
    ours = row >= first
    padding = np.isin(row, special_ids) & ~ours
    end = len(row) - int(np.argmin(np.append(padding[::-1], False)))  # without trailing special ids
    found: list[tuple[str | None, Any]] = []
    bounds = [0, *(np.flatnonzero(np.diff(ours)) + 1).tolist(), len(row)]
    for start, stop in itertools.pairwise(bounds):
        run = torch.from_numpy(row[start:stop])
        if stop == start or not ours[start]:
            found += [(None, run)] if stop > start else []
            continue
        try:
            found += _segments(vocabulary, run - shift, last=stop >= end)
        except ValueError as error:
            raise ValueError(f"ids {start} to {stop - 1} break the grammar: {error}") from error
    return found


def _segments(vocabulary: Vocabulary, ids: Tensor, last: bool) -> list[tuple[str, Codes]]:
    """Parse consecutive segments in the vocabulary's own ids. If `last`, they may end within a segment."""
    start = torch.tensor([DOCUMENT])
    if last:
        return vocabulary.parse(truncation.complete(vocabulary, start, ids))
    document = torch.cat([start, ids])
    state = vocabulary.read(document)
    if not state.between_segments:
        raise ValueError(f"text follows within a segment of {state.channel.name}")
    return vocabulary.parse(document)


@torch.no_grad()
def decode(
    vocabulary: Vocabulary, rows: Sequence[Sequence[tuple[str | None, Any]]], text: Callable[[Tensor], str]
) -> list[list[Any]]:
    """Decode rows that `parse` returned; `text` decodes ids of text. Empty texts are left out."""
    decoders = {name: channel.codec for name, channel in vocabulary.channels.items()}
    out = []
    for parts, signals in zip(rows, segments.decode_rows(rows, decoders), strict=True):
        decoded = [text(part) if name is None else x for (name, part), x in zip(parts, signals, strict=True)]
        out.append([x for (name, _), x in zip(parts, decoded, strict=True) if name is not None or x])
    return out


def _as_row(ids: Any) -> np.ndarray:
    row = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise ValueError(f"a sequence must be integers along one axis, got {row.dtype} of shape {row.shape}")
    return row.astype(np.int64)
