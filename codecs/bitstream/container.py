"""Self-describing containers: integers ↔ bytes, without loss. Damaged containers are refused.

    magic "tlm" | version | fingerprint, 8 bytes | sizes | fields | payload | CRC-32

All numbers are LEB128 varints. The fields are the number of quantizers (ordered codecs) or of tokens (varying lengths),
the side information, and one byte for the mode of the payload. The payload is packed, or entropy coded with the
codec's context model or training counts, whichever is shorter. Text is packed and has no mode byte. File bytes are
stored unchanged. The payload extends to the CRC, so its length is not stored. At most 32 bytes surround a payload.
The version tells how payloads are packed. Version 3 is a file of containers, see records.py.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tokenloom import memory

from .. import batches, rate, validate
from ..types import BitstreamError, CodecInterface, Codes, Modality
from . import entropy, packing, version1

MAGIC = b"tlm"
VERSION, SEGMENTED = 2, 3
UNPACK = {1: version1.unpack, VERSION: packing.unpack}
"""How the packed payloads of each version are read."""
HEAD = len(MAGIC) + 1 + 8
PACKED, RANGE_CODED, CONTEXT_CODED = 0, 1, 2


def write(codec: CodecInterface, codes: Codes) -> list[bytes]:
    """Return one container per item."""
    head = MAGIC + bytes([VERSION]) + codec.fingerprint
    return [_write_one(head, codec, one) for one in codes]


def read(codec: CodecInterface, data: list[bytes]) -> Codes:
    """Read containers of one codec into one batch of codes. Raises BitstreamError for other or damaged data."""
    if not isinstance(data, list | tuple) or not data:
        raise BitstreamError("decompress needs a list of at least one container")
    own = codec.fingerprint
    bodies = [_open(codec, own, item) for item in data]
    sizes = [size for size, _ in bodies]
    largest, limit = [*map(max, zip(*sizes, strict=True))], validate.limit(codec.spec.modality)
    if math.prod(largest) > limit:
        raise BitstreamError(
            f"a signal of a batch must have at most {limit} samples, got sizes up to {largest}; decompress the items "
            "one by one"
        )
    try:
        memory.require(codec, sizes)
    except memory.MemoryLimitError as error:
        raise BitstreamError(str(error)) from error
    return batches.collate([_read_one(codec, size, body) for size, body in bodies])


def decode(codec: CodecInterface, codes: Codes) -> Tensor | list[str]:
    """Decode codes from a container. Raises BitstreamError if the codec refuses them, or a text has another size."""
    try:
        decoded = codec.decode(codes)
    except BitstreamError:
        raise
    except ValueError as error:
        raise BitstreamError(f"the payload does not decode with {codec.name}: {error}") from error
    for text, size in zip(decoded, codes.sizes[:, 0].tolist(), strict=True) if isinstance(decoded, list) else ():
        if codec.span((size,)) is None and (found := len(text.encode("utf-8"))) != size:
            raise BitstreamError(f"the text must have the {size} bytes that the container declares, got {found}")
    return decoded


def fingerprint(data: bytes) -> bytes:
    """Return the fingerprint of the codec that wrote a container. Raises BitstreamError for other or damaged data."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise BitstreamError(f"a container must be bytes, got {type(data).__name__}")
    data = bytes(data)
    if len(data) < HEAD + 4 or data[:3] != MAGIC:
        raise BitstreamError(f"a container must start with {MAGIC!r}; these {len(data)} bytes do not")
    if data[3] not in (*UNPACK, SEGMENTED):
        raise BitstreamError(f"container version must be one of {[*UNPACK, SEGMENTED]}, got {data[3]}")
    checked = data[: HEAD + 4] if data[3] == SEGMENTED else data  # the segments have checksums of their own
    if zlib.crc32(checked[:-4]).to_bytes(4, "little") != checked[-4:]:
        raise BitstreamError("the container is damaged: its CRC-32 does not match")
    return data[4:HEAD]


def size(data: bytes, axes: int) -> tuple[int, ...]:
    """Return the size along so many axes that a container, whose fingerprint was read, declares."""
    body = _Reader(data[HEAD:-4], UNPACK[data[3]])
    return tuple(body.varint() for _ in range(axes))


def other_codec(codec: CodecInterface, found: bytes) -> str:
    """Return the message about a container of another codec than `codec`."""
    return f"the container was written by the codec {found.hex()}, not by {codec.name} {codec.fingerprint.hex()}"


def _write_one(head: bytes, codec: CodecInterface, codes: Codes) -> bytes:
    spec = codec.spec
    size = tuple(codes.sizes[0].tolist())
    out = bytearray(head)
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


def _open(codec: CodecInterface, own: bytes, data: bytes) -> tuple[tuple[int, ...], _Reader]:
    """Return the declared size of a signal and the rest of its container."""
    if (found := fingerprint(data)) != own:
        raise BitstreamError(other_codec(codec, found))
    modality = codec.spec.modality
    if data[3] not in UNPACK:
        raise BitstreamError("a container within a file of segments must not have segments itself")
    body = _Reader(bytes(data)[HEAD:-4], UNPACK[data[3]])
    size = tuple(body.varint() for _ in range(2 if modality is Modality.IMAGE else 1))
    limit = validate.limit(modality)
    if math.prod(size) > limit or (modality is not Modality.TEXT and 0 in size):
        raise BitstreamError(f"a signal must have 1 to {limit} samples, the container declares {size}")
    return size, body


def _read_one(codec: CodecInterface, size: tuple[int, ...], body: _Reader) -> Codes:
    spec, sizes = codec.spec, torch.tensor([size])
    if not spec.stride:
        length = None if spec.codebook_sizes == (256,) else body.varint()
        if length is not None and (span := codec.span(size)) and not span[0] <= length <= span[1]:
            raise BitstreamError(f"{size} samples take {span[0]} to {span[1]} tokens, the container declares {length}")
        if spec.ordered and length is not None:
            symbols = _unpack(body, codec, 1, (length,), {})[0]
        else:
            symbols = _unpack_plain(body, spec.codebook_sizes[0], length)
        return Codes(torch.from_numpy(symbols)[None, None], sizes, torch.tensor([len(symbols)]))
    used = body.varint() if spec.ordered else len(spec.codebook_sizes)
    if not 1 <= used <= len(spec.codebook_sizes):
        raise BitstreamError(f"{codec.name} has {len(spec.codebook_sizes)} quantizers, the container declares {used}")
    side = {}
    for key, shape in sorted(codec.side_shapes(size).items()):
        raw = np.frombuffer(body.take(4 * math.prod(shape)), "<f4").astype(np.float32)
        side[key] = torch.from_numpy(raw).reshape(1, *shape)
        if not torch.isfinite(side[key]).all():
            raise BitstreamError(f"side information {key!r} holds NaN or Inf")
    grid = spec.grid(size)
    symbols = _unpack(body, codec, used, grid, side)
    return Codes(torch.from_numpy(symbols).reshape(1, used, *grid), sizes, None, side)


# -- payloads -----------------------------------------------------------------------------------


def _pack(symbols: np.ndarray, codec: CodecInterface, side: dict[str, Tensor]) -> bytes:
    """Return the mode byte and payload of symbols (quantizers, *grid): entropy coded or packed, if shorter."""
    radices = codec.spec.codebook_sizes[: len(symbols)]
    rows = symbols.reshape(len(symbols), -1)
    coded = b""
    if codec.context is not None:
        coded = bytes([CONTEXT_CODED]) + entropy.encode_with_context(symbols, codec, side)
    elif (counts := entropy.frequencies(codec)) is not None:
        coded = bytes([RANGE_CODED]) + entropy.encode(rows, counts)
    if coded and 8 * len(coded) <= rate.bits_per_position(radices) * rows.shape[1]:
        return coded
    packed = bytes([PACKED]) + packing.pack(rows, radices)
    return coded if coded and len(coded) < len(packed) else packed


def _unpack(
    body: _Reader, codec: CodecInterface, used: int, grid: tuple[int, ...], side: dict[str, Tensor]
) -> np.ndarray:
    data = body.rest()
    if not data:
        raise BitstreamError("the container has no payload")
    positions = math.prod(grid)
    if data[0] == CONTEXT_CODED and codec.context is not None:
        return entropy.decode_with_context(data[1:], codec, grid, side)
    radices = codec.spec.codebook_sizes[:used]
    if data[0] == PACKED:
        return body.unpack(data[1:], radices, positions)
    counts = entropy.frequencies(codec)
    if data[0] != RANGE_CODED or counts is None:
        raise BitstreamError(f"{codec.name} has no payload mode {data[0]}")
    return entropy.decode(data[1:], counts[:used], positions)


def _pack_plain(symbols: np.ndarray, radix: int) -> bytes:
    return symbols.astype(np.uint8).tobytes() if radix == 256 else packing.pack(symbols[None], (radix,))


def _unpack_plain(body: _Reader, radix: int, length: int | None) -> np.ndarray:
    if length is None:
        return np.frombuffer(body.rest(), np.uint8).astype(np.int64)
    return body.unpack(body.rest(), (radix,), length)[0]


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


class _Reader:
    """Reader of the body of a container, with the function that unpacks packed payloads of its version."""

    def __init__(self, data: bytes, unpack: Callable[[bytes, tuple[int, ...], int], np.ndarray]) -> None:
        self.data, self.unpack, self.at = data, unpack, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise BitstreamError(f"the container ends early: {count} bytes needed, {len(self.data) - self.at} left")
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
        raise BitstreamError("a number in the container must have at most 42 bits")
