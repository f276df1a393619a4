"""One item of a data set as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs.types import Codes


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one item: its key, codes (a batch of one without padding), caption (or ""), and metadata."""

    key: str
    codes: Codes
    caption: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


def single(codes: Codes, i: int) -> Codes:
    """Return item i of a batch as a batch of one, without the padding that other items needed."""
    one = codes[i]
    indices = one.indices[:, : int(one.quantizers())]
    if one.lengths is not None:
        indices = indices[:, :, : int(one.lengths)]
    return Codes(indices, one.sizes, one.lengths, one.side)


def make_codes(indices: Tensor, size: Sequence[int], length: int | None, side: Mapping[str, Tensor]) -> Codes:
    """Return the codes of one item from what a shard stores."""
    lengths = None if length is None else torch.tensor([length])
    return Codes(indices.long(), torch.tensor([size]), lengths, dict(side))


def index_type(codebook_sizes: Iterable[int]) -> str:
    """Return the smallest integer type for all indices that NumPy, Arrow and PyTorch share."""
    largest = max(codebook_sizes)
    return "uint8" if largest <= 2**8 else "int16" if largest <= 2**15 else "int32"
