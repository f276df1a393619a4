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
    decoder = _Decoder(data, positions, -sum(math.log2(p.max()) for p in probabilities))
    models = [constriction.stream.model.Categorical(p, perfect=False) for p in probabilities]
    rows = [decoder.decode(model, count=positions).astype(np.int64) for model in models]
    decoder.finish()
    return np.stack(rows)


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
    decoder = _Decoder(data, math.prod(grid), codec.context.least_bits)
    family = constriction.stream.model.Categorical(perfect=False)

    def coder(probabilities: np.ndarray, channels: slice, mask: np.ndarray) -> np.ndarray:
        return decoder.decode(family, probabilities)

    try:
        quality = codec.condition(side)
    except ValueError as error:
        raise BitstreamError(str(error)) from error
    codes = codec.context.code(grid, quality, coder)
    decoder.finish()
    return codes + np.array(codec.context.bounds)[:, None, None]


class _Decoder:
    """A range decoder that accepts only what an encoder wrote for these symbols, because it encodes them again.

    Other data, or data of another size, are refused as soon as the symbols take more bits than there are.

    Raises:
        BitstreamError: For fewer than `least_bits` per position, before allocation.
    """

    def __init__(self, data: bytes, positions: int, least_bits: float) -> None:
        if len(data) % 4:
            raise BitstreamError(f"a range-coded payload must have whole 32-bit words, got {len(data)} bytes")
        if 8 * (len(data) + 8) < least_bits * positions:
            raise BitstreamError(f"a range-coded payload of {len(data)} bytes cannot hold {positions} positions")
        self._words = np.frombuffer(data, "<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(self._words)
        self._encoder = constriction.stream.queue.RangeEncoder()

    def decode(self, model: Any, *parameters: np.ndarray, count: int | None = None) -> np.ndarray:
        """Decode `count` symbols of one model, or one symbol for each row of the parameters of a family of models."""
        try:
            symbols = self._decoder.decode(model, *(parameters if count is None else (count,)))
        except AssertionError as error:  # constriction's error for data that no encoder wrote
            raise BitstreamError(f"the range-coded payload is damaged: {error}") from error
        self._encoder.encode(symbols, model, *parameters)
        if self._encoder.num_words() > len(self._words):
            raise BitstreamError("the range-coded payload ends before the last symbol")
        return symbols

    def finish(self) -> None:
        """Raise BitstreamError if the payload holds more than the decoded symbols."""
        if not np.array_equal(self._encoder.get_compressed(), self._words):
            raise BitstreamError("the range-coded payload is not that of the symbols that it decodes to")
