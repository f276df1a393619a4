"""Range coding with the counts of the training split or with a context model.

The range coder is constriction's (Bamler, arXiv 2201.01741). Probabilities are computed from integers in the
checkpoint, so they are the same on every machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from tokenloom import lazy

from .. import rate
from ..types import BitstreamError, CodecInterface

constriction = lazy.load("constriction")


def frequencies(codec: CodecInterface) -> list[np.ndarray] | None:
    """Return the symbol probabilities of each quantizer in the training split, or None without counts."""
    counts = codec.counts
    if counts is None or int(counts.sum()) == 0:
        return None
    sizes = codec.spec.codebook_sizes
    return [rate.smoothed(counts[q, :n]).numpy() for q, n in enumerate(sizes)]


def encode(symbols: np.ndarray, probabilities: list[np.ndarray]) -> bytes:
    encoder = constriction.stream.queue.RangeEncoder()
    for row, p in zip(symbols, probabilities, strict=False):
        encoder.encode(row.astype(np.int32), constriction.stream.model.Categorical(p, perfect=False))
    return encoder.get_compressed().astype("<u4").tobytes()


def decode(data: bytes, probabilities: list[np.ndarray], positions: int) -> np.ndarray:
    decoder = _decoder(data, positions, -sum(math.log2(p.max()) for p in probabilities))
    models = [constriction.stream.model.Categorical(p, perfect=False) for p in probabilities]
    return np.stack([_decoded(decoder, model, positions).astype(np.int64) for model in models])


def encode_with_context(symbols: np.ndarray, codec: CodecInterface, side: dict[str, Tensor]) -> bytes:
    """Encode symbols (channels, *grid) with the probabilities of the codec's context model."""
    encoder = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)

    def coder(probabilities: np.ndarray, channels: slice, mask: np.ndarray) -> np.ndarray:
        row = symbols[channels][:, mask].reshape(-1)
        encoder.encode(row.astype(np.int32), family, probabilities)
        return row

    codec.context.code(symbols.shape[1:], codec.condition(side), coder)
    return encoder.get_compressed().astype("<u4").tobytes()


def decode_with_context(
    data: bytes, codec: CodecInterface, grid: tuple[int, ...], side: dict[str, Tensor]
) -> np.ndarray:
    decoder = _decoder(data, math.prod(grid), codec.context.least_bits)
    family = constriction.stream.model.Categorical(perfect=False)

    def coder(probabilities: np.ndarray, channels: slice, mask: np.ndarray) -> np.ndarray:
        return _decoded(decoder, family, probabilities)

    try:
        quality = codec.condition(side)
    except ValueError as error:
        raise BitstreamError(str(error)) from error
    codes = codec.context.code(grid, quality, coder)
    return codes + np.array(codec.context.bounds)[:, None, None]


def _decoder(data: bytes, positions: int, least_bits: float) -> Any:
    """Return a range decoder. Raises BitstreamError for fewer than `least_bits` per position, before allocation."""
    if len(data) % 4:
        raise BitstreamError(f"a range-coded payload must have whole 32-bit words, got {len(data)} bytes")
    if 8 * (len(data) + 8) < least_bits * positions:
        raise BitstreamError(f"a range-coded payload of {len(data)} bytes cannot hold {positions} positions")
    return constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))


def _decoded(decoder: Any, *model: Any) -> np.ndarray:
    try:
        return decoder.decode(*model)
    except AssertionError as error:  # constriction's error for data that no encoder wrote
        raise BitstreamError(f"the range-coded payload is damaged: {error}") from error
