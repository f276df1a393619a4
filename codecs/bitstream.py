"""Containers: integers → bytes → integers, exactly, self-describing and refusing damage.

    magic "tlm" | version | fingerprint, 8 bytes | sizes | fields | payload | CRC-32

All numbers are LEB128 varints. Fields: the quantizers in use where the codec is ordered, or the number
of tokens where that varies, then one byte that says how the payload is written: under a codec's context
model if it has one, else packed or range coded, whichever is shorter. Text is packed without that byte,
and tokens that are a file's bytes are stored as they are. The rest of the file is payload, so
nothing needs its length. At most 32 bytes surround a payload (two sizes of five bytes included).
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from . import rate
from .base import MAX_PIXELS, MAX_SAMPLES, BitstreamError, Codec, Codes, Modality

MAGIC = b"tlm"
VERSION = 1
HEAD = len(MAGIC) + 1 + 8
BLOCKS = 24
"""A packed payload is cut into at most this many integers, each rounded up to whole bits."""
BLOCK_TOKENS = 4096
PACKED, RANGE_CODED, CONTEXT_CODED = 0, 1, 2


def write(codec: Codec, codes: Codes) -> list[bytes]:
    """One container per item."""
    return [_write_one(codec, codes[i]) for i in range(len(codes))]


def read(codec: Codec, data: list[bytes]) -> Codes:
    """Containers of one codec → codes, collated. Raises BitstreamError."""
    from . import batches, validate

    if not isinstance(data, list | tuple) or not data:
        raise BitstreamError("decompress takes a list of one or more bytes objects")
    parts = [_read_one(codec, item) for item in data]
    largest = torch.cat([part.sizes for part in parts]).amax(0).tolist()
    if math.prod(largest) > validate.limit(codec.spec.modality):
        raise BitstreamError(
            f"signals of up to {largest} samples do not fit into one batch; decompress them one by one"
        )
    return batches.collate(parts)


def decode(codec: Codec, codes: Codes) -> Tensor | list[str]:
    """`codec.decode` for codes that came from outside: what it refuses is a damaged bitstream."""
    try:
        return codec.decode(codes)
    except BitstreamError:
        raise
    except ValueError as error:
        raise BitstreamError(f"the payload does not decode with {codec.name}: {error}") from error


def fingerprint(data: bytes) -> bytes:
    """The fingerprint of the codec that wrote a container; BitstreamError if it is none, or damaged."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise BitstreamError(f"a container is bytes, not {type(data).__name__}")
    data = bytes(data)
    if len(data) < HEAD + 4 or data[:3] != MAGIC:
        raise BitstreamError(f"these {len(data)} bytes are no tokenloom container (no magic {MAGIC!r})")
    if data[3] != VERSION:
        raise BitstreamError(f"container version {data[3]} is not {VERSION}, the one this release reads")
    if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise BitstreamError("the container is damaged: its CRC-32 does not match")
    return data[4:HEAD]


def decompress(data: bytes | list[bytes]) -> Tensor | list[str]:
    """A container, or several of one codec → a batch of signals, by the codec that the fingerprint names."""
    from . import registry

    data = list(data) if isinstance(data, list | tuple) else [data]
    if not data:
        raise BitstreamError("decompress was given no container")
    return registry.find(fingerprint(data[0])).decompress([bytes(d) for d in data])


def _write_one(codec: Codec, codes: Codes) -> bytes:
    spec = codec.spec
    size = tuple(codes.sizes[0].tolist())
    out = bytearray(MAGIC + bytes([VERSION]) + codec.fingerprint)
    for n in size:
        out += _varint(n)
    if codes.lengths is not None:
        length = int(codes.lengths[0])
        if spec.codebook_sizes != (256,):
            out += _varint(length)
        symbols = codes.indices[0, :, :length].cpu().numpy()
        out += _pack(symbols, codec, {}) if spec.ordered else _pack_plain(symbols[0], spec.codebook_sizes[0])
    else:
        used = int(codes.quantizers()[0])
        if spec.ordered:
            out += _varint(used)
        grid = spec.grid(size)
        for key, shape in sorted(codec.side_shapes(size).items()):
            own = codes.side[key][(0, *(slice(n) for n in shape))]
            out += own.float().cpu().numpy().astype("<f4").tobytes()
        symbols = codes.indices[(0, slice(used), *(slice(n) for n in grid))].cpu().numpy()
        out += _pack(symbols, codec, codes.side)
    return bytes(out) + zlib.crc32(out).to_bytes(4, "little")


def _read_one(codec: Codec, data: bytes) -> Codes:
    found = fingerprint(data)
    if found != codec.fingerprint:
        raise BitstreamError(f"written by the codec {found.hex()}, not by {codec.name} {codec.fingerprint.hex()}")
    spec = codec.spec
    body = _Reader(bytes(data)[HEAD:-4])
    axes = 2 if spec.modality is Modality.IMAGE else 1
    size = tuple(body.varint() for _ in range(axes))
    limit = MAX_PIXELS if spec.modality is Modality.IMAGE else MAX_SAMPLES
    if math.prod(size) > limit or (spec.modality is not Modality.TEXT and 0 in size):
        raise BitstreamError(f"the container declares a signal of {size} samples; at most {limit} and at least 1")
    sizes = torch.tensor([size])
    if not spec.stride:
        length = None if spec.codebook_sizes == (256,) else body.varint()
        if (span := codec.span(size)) and not span[0] <= length <= span[1]:
            raise BitstreamError(f"the container declares {length} tokens; {size} samples take {span[0]} to {span[1]}")
        if spec.ordered:
            symbols = _unpack(body.rest(), codec, 1, (length,), {})[0]
        else:
            symbols = _unpack_plain(body.rest(), spec.codebook_sizes[0], length)
        return Codes(torch.from_numpy(symbols)[None, None], sizes, torch.tensor([len(symbols)]))
    used = body.varint() if spec.ordered else len(spec.codebook_sizes)
    if not 1 <= used <= len(spec.codebook_sizes):
        raise BitstreamError(f"the container declares {used} quantizers; {codec.name} has {len(spec.codebook_sizes)}")
    side = {}
    for key, shape in sorted(codec.side_shapes(size).items()):
        raw = np.frombuffer(body.take(4 * math.prod(shape)), "<f4").astype(np.float32)
        side[key] = torch.from_numpy(raw).reshape(1, *shape)
        if not torch.isfinite(side[key]).all():
            raise BitstreamError(f"side information {key!r} holds NaN or Inf")
    grid = spec.grid(size)
    symbols = _unpack(body.rest(), codec, used, grid, side)
    return Codes(torch.from_numpy(symbols).reshape(1, used, *grid), sizes, None, side)


# -- payloads -----------------------------------------------------------------------------------


def _pack(symbols: np.ndarray, codec: Codec, side: dict[str, Tensor]) -> bytes:
    """(quantizers, *grid) → mode byte and the shorter of two writings, one of which a plain packing always is."""
    radices = codec.spec.codebook_sizes[: len(symbols)]
    rows = symbols.reshape(len(symbols), -1)
    coded = b""
    if getattr(codec, "context", None) is not None:
        coded = bytes([CONTEXT_CODED]) + _context_encode(symbols, codec, side)
    elif (counts := _frequencies(codec)) is not None:
        coded = bytes([RANGE_CODED]) + _range_encode(rows, counts)
    if coded and 8 * len(coded) <= rate.bits_per_position(radices) * rows.shape[1]:
        return coded
    packed = bytes([PACKED]) + pack(rows, radices)
    return coded if coded and len(coded) < len(packed) else packed


def _unpack(data: bytes, codec: Codec, used: int, grid: tuple[int, ...], side: dict[str, Tensor]) -> np.ndarray:
    if not data:
        raise BitstreamError("the container has no payload")
    positions = math.prod(grid)
    if data[0] == CONTEXT_CODED and getattr(codec, "context", None) is not None:
        return _context_decode(data[1:], codec, grid, side)
    radices = codec.spec.codebook_sizes[:used]
    if data[0] == PACKED:
        return unpack(data[1:], radices, positions)
    counts = _frequencies(codec)
    if data[0] != RANGE_CODED or counts is None:
        raise BitstreamError(f"payload mode {data[0]} is unknown to {codec.name}")
    return _range_decode(data[1:], counts[:used], positions)


def pack(symbols: np.ndarray, radices: tuple[int, ...]) -> bytes:
    """(quantizers, positions) symbols, row q below radices[q] → ceil-of-bits bytes, ≤ nominal + 32 bits.

    Mixed-radix integers built by doubling: neighbours (a, b) with radices (r, s) become the one
    digit a·s + b of radix r·s, until one integer a block is left.
    """
    digits, bases = _digits(symbols.shape[1], radices)
    values = np.zeros(digits.size, dtype=object)
    values[: symbols.size] = symbols.T.reshape(-1).tolist()
    values = values.reshape(digits.shape)
    for base in bases[:-1]:
        values = values[:, 0::2] * base[:, 1::2] + values[:, 1::2]
    bits, total = 0, 0
    for value, radix in zip(values[:, 0], bases[-1][:, 0], strict=True):
        width = (int(radix) - 1).bit_length()
        total |= int(value) << bits
        bits += width
    return total.to_bytes((bits + 7) // 8, "little")


def unpack(data: bytes, radices: tuple[int, ...], positions: int) -> np.ndarray:
    """The inverse of `pack`: (quantizers, positions) int64; BitstreamError on any other bytes."""
    nominal_bytes = positions * rate.bits_per_position(radices) / 8
    if abs(len(data) - nominal_bytes) > 5:
        raise BitstreamError(f"a payload of {len(data)} bytes; {positions} positions take about {nominal_bytes:.0f}")
    _, bases = _digits(positions, radices)
    widths = [(int(r) - 1).bit_length() for r in bases[-1][:, 0]]
    if len(data) != (sum(widths) + 7) // 8:
        raise BitstreamError(f"a payload of {len(data)} bytes; its {positions} positions take {(sum(widths) + 7) // 8}")
    total = int.from_bytes(data, "little")
    values = np.zeros((len(widths), 1), dtype=object)
    for block, width in enumerate(widths):
        values[block, 0] = total & ((1 << width) - 1)
        total >>= width
    if total or (values[:, 0] >= bases[-1][:, 0]).any():
        raise BitstreamError("the payload is out of the codebooks' range")
    for base in reversed(bases[:-1]):
        right = base[:, 1::2]
        split = np.zeros(base.shape, dtype=object)
        split[:, 0::2], split[:, 1::2] = values // right, values % right
        values = split
    flat = values.reshape(-1)[: positions * len(radices)].astype(np.int64)
    return np.ascontiguousarray(flat.reshape(positions, len(radices)).T)


def _digits(positions: int, radices: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Radices of every digit, (blocks, power of two), padded with 1, and all their doublings."""
    count = positions * len(radices)
    blocks = min(BLOCKS, -(-count // BLOCK_TOKENS)) or 1
    width = 1 << max(0, (-(-count // blocks) - 1).bit_length())
    digits = np.ones(blocks * width, dtype=object)
    digits[:count] = np.tile(np.array(radices, dtype=object), positions)
    digits = digits.reshape(blocks, width)
    bases = [digits]
    while bases[-1].shape[1] > 1:
        bases.append(bases[-1][:, 0::2] * bases[-1][:, 1::2])
    return digits, bases


def _pack_plain(symbols: np.ndarray, radix: int) -> bytes:
    return symbols.astype(np.uint8).tobytes() if radix == 256 else pack(symbols[None], (radix,))


def _unpack_plain(data: bytes, radix: int, length: int | None) -> np.ndarray:
    if length is None:
        return np.frombuffer(data, np.uint8).astype(np.int64)
    if length > 8 * len(data):
        raise BitstreamError(f"the container declares {length} tokens in {len(data)} bytes")
    return unpack(data, (radix,), length)[0]


def _frequencies(codec: Codec) -> list[np.ndarray] | None:
    """Symbol probabilities of the training split, or None: integers in the checkpoint, so the same everywhere."""
    counts = getattr(codec, "counts", None)
    if counts is None or int(counts.sum()) == 0:
        return None
    sizes = codec.spec.codebook_sizes
    return [rate.smoothed(counts[q, :n]).numpy() for q, n in enumerate(sizes)]


def _range_encode(symbols: np.ndarray, probabilities: list[np.ndarray]) -> bytes:
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    for row, p in zip(symbols, probabilities, strict=False):
        encoder.encode(row.astype(np.int32), constriction.stream.model.Categorical(p, perfect=False))
    return encoder.get_compressed().astype("<u4").tobytes()


def _range_decode(data: bytes, probabilities: list[np.ndarray], positions: int) -> np.ndarray:
    import constriction

    if len(data) % 4:
        raise BitstreamError(f"a range-coded payload of {len(data)} bytes is no whole number of 32-bit words")
    floor = -sum(math.log2(p.max()) for p in probabilities) * positions / 8
    if len(data) + 8 < floor:
        raise BitstreamError(f"a range-coded payload of {len(data)} bytes cannot hold {positions} positions")
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
    rows = []
    for p in probabilities:
        model = constriction.stream.model.Categorical(p, perfect=False)
        try:
            rows.append(decoder.decode(model, positions).astype(np.int64))
        except AssertionError as error:  # constriction's word for data that no encoder wrote
            raise BitstreamError(f"the range-coded payload is damaged: {error}") from error
    return np.stack(rows)


def _context_encode(symbols: np.ndarray, codec: Codec, side: dict[str, Tensor]) -> bytes:
    """(channels, *grid) symbols, each under the probabilities that the codec's context model gives it."""
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)

    def coder(probabilities: np.ndarray, channels: slice, mask: np.ndarray) -> np.ndarray:
        row = symbols[channels][:, mask].reshape(-1)
        encoder.encode(row.astype(np.int32), family, probabilities)
        return row

    codec.context.code(symbols.shape[1:], codec.condition(side), coder)
    return encoder.get_compressed().astype("<u4").tobytes()


def _context_decode(data: bytes, codec: Codec, grid: tuple[int, ...], side: dict[str, Tensor]) -> np.ndarray:
    import constriction

    if len(data) % 4:
        raise BitstreamError(f"a range-coded payload of {len(data)} bytes is no whole number of 32-bit words")
    if 8 * (len(data) + 8) < codec.context.least_bits * math.prod(grid):
        raise BitstreamError(f"a payload of {len(data)} bytes cannot hold {math.prod(grid)} positions")
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
    family = constriction.stream.model.Categorical(perfect=False)

    def coder(probabilities: np.ndarray, channels: slice, mask: np.ndarray) -> np.ndarray:
        try:
            return decoder.decode(family, probabilities)
        except AssertionError as error:  # constriction's word for data that no encoder wrote
            raise BitstreamError(f"the range-coded payload is damaged: {error}") from error

    try:
        quality = codec.condition(side)
    except ValueError as error:
        raise BitstreamError(str(error)) from error
    codes = codec.context.code(grid, quality, coder)
    return codes + np.array(codec.context.bounds)[:, None, None]


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


class _Reader:
    """A cursor over the body of a container."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise BitstreamError(f"the container ends early: {count} bytes wanted, {len(self.data) - self.at} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def varint(self) -> int:
        value = 0
        for shift in range(0, 42, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise BitstreamError("a number in the container is longer than 42 bits")
