"""UTF-8 bytes as tokens."""

from __future__ import annotations

from typing import Any

import torch

from ..codec import Codec
from ..native import pack, unpack
from ..registry import register
from ..types import Codes, CodeSpec, Modality


@register("text/bytes")
class Bytes(Codec):
    """Codec whose codes are the UTF-8 bytes of a text. Invalid byte sequences decode to U+FFFD."""

    spec = CodeSpec(Modality.TEXT, (256,), (), channels=0, causal=True)

    def span(self, size: tuple[int, ...]) -> tuple[int, int]:
        return size[0], size[0]

    def _encode(self, x: list[str], setting: Any) -> Codes:
        indices, lengths = pack([torch.tensor(list(text.encode("utf-8")), dtype=torch.int64) for text in x])
        return Codes(indices, lengths[:, None].clone(), lengths)

    def _decode(self, codes: Codes) -> list[str]:
        return [bytes(row.tolist()).decode("utf-8", errors="replace") for row in unpack(codes)]
