"""Audio files that do not say how long they are, or say it wrongly.

Encoders that write to a pipe, and recorders that are cut off, leave sizes in headers unknown. libsndfile then reads
nothing, or refuses the file. It also ends after the first of several chained Ogg streams, and estimates the length of
an MP3 file from its first frame.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

UNKNOWN = 2**62
"""Lengths from here on mean that the length is not known, if they have 64 bits; in samples or bytes."""
MOST_CHUNKS = 10_000
"""Number of chunks that are looked at before that of the samples."""
PIPED = 0x7FFFFF00
"""Sizes from here on mean that the size is not known, if they have 32 bits; in bytes."""


class Layout(NamedTuple):
    """Chunks of a file: where they start, length of a name, format of a size, name of the samples' chunk, padding."""

    start: int
    name: int
    size: str
    samples: bytes
    padding: int


W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
CHUNKED = {
    b"RIFF": Layout(12, 4, "<I", b"data", 2), b"RF64": Layout(12, 4, "<I", b"data", 2),
    b"FORM": Layout(12, 4, ">I", b"SSND", 2), b"caff": Layout(8, 4, ">Q", b"data", 1),
    W64[:4]: Layout(40, 16, "<Q", bytes.fromhex("64617461f3acd3118cd100c04f8edb8a"), 8),
}  # fmt: skip
BITRATES = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Version of MPEG → kbit/s of layer III."""
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Version bits of an MP3 header → Hz."""


def repaired(file: BinaryIO) -> tuple[list[BinaryIO], str]:
    """Return the streams of an audio file, and the part of its samples that it lacks, such as "5 of 9 bytes", or "".

    A file that states its length is returned as it is.
    """
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if head[:4] in CHUNKED:
        return _chunked(file, CHUNKED[head[:4]], head[:4])
    if head[:4] == b".snd" and head[8:12] == bytes(4):
        return [_patched(file, {8: b"\xff" * 4})], ""
    if head[:4] == b"OggS":
        data = file.read()
        starts = list(_ogg_streams(data))
        if len(starts) > 1:
            return [io.BytesIO(data[a:b]) for a, b in zip(starts, [*starts[1:], len(data)], strict=True)], ""
    if head[:3] == b"ID3" or (head[0:1] == b"\xff" and len(head) > 1 and head[1] & 0xE6 == 0xE2):
        data = file.read()
        return [io.BytesIO(_with_frame_count(data))], ""
    file.seek(0)
    return [file], ""


def _chunked(file: BinaryIO, layout: Layout, kind: bytes) -> tuple[list[BinaryIO], str]:
    end, at = file.seek(0, 2), layout.start
    head = layout.name + struct.calcsize(layout.size)
    own = head if kind == W64[:4] else 0  # there, sizes include the name and the size
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        chunk = file.read(head).ljust(head, b"\0")
        size = struct.unpack(layout.size, chunk[layout.name :])[0] - own
        if chunk[: layout.name] == layout.samples or size < 0 or at >= end:
            break
        at += head + size + -size % layout.padding
    left, field, order = end - at - head, at + layout.name, layout.size[0]
    if kind == b"RF64" and size >= PIPED:  # the size is in the chunk ds64, which comes first
        file.seek(28)
        size, field = int.from_bytes(file.read(8), "little"), 28
    never_set = {
        b"RIFF": size == 0 and not _is_chunk(file, at + head, end), b"FORM": False, W64[:4]: size >= UNKNOWN,
    }.get(kind, size == 0 or size >= UNKNOWN)  # fmt: skip
    if chunk[: layout.name] == layout.samples and left > 0 and never_set:
        value = struct.pack(order + "Q", 0 if own else left) if kind != b"RIFF" else b"\xff" * 4
        return [_patched(file, {field: value} | ({20: struct.pack("<Q", end - 8)} if kind == b"RF64" else {}))], ""
    file.seek(0)
    known = PIPED if layout.size[1] == "I" and kind != b"RF64" else UNKNOWN
    return [file], f"{left} of {size} bytes" if left < size < known else ""


def _is_chunk(file: BinaryIO, at: int, end: int) -> bool:
    """Whether a chunk of RIFF that fits into the file begins at a byte."""
    file.seek(at)
    head = file.read(8)
    return len(head) == 8 and head[:4].isascii() and head[:4].decode().isprintable() and (
        at + 8 + int.from_bytes(head[4:], "little") <= end)  # fmt: skip


def _patched(file: BinaryIO, changes: dict[int, bytes]) -> BinaryIO:
    file.seek(0)
    data = bytearray(file.read())
    for at, value in changes.items():
        data[at : at + len(value)] = value
    return io.BytesIO(data)


def _ogg_streams(data: bytes) -> Iterator[int]:
    """Yield the first byte of each chained stream. Streams that play at once begin with adjacent pages."""
    at, began = 0, False
    while data.startswith(b"OggS", at) and at + 27 <= len(data):
        begins = bool(data[at + 5] & 2)
        if begins and not began:
            yield at
        began, table = begins, at + 27
        body = table + data[at + 26]
        at = body + sum(data[table:body])


def _frame(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Return length, samples, version bits and channels of the layer III frame at a byte; zeros if there is none."""
    head = int.from_bytes(data[at : at + 4], "big")
    version, bitrate, rate = head >> 19 & 3, head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or head >> 17 & 3 != 1 or version == 1 or bitrate in (0, 15) or rate == 3:
        return 0, 0, 0, 0
    samples = 1152 if version == 3 else 576
    kbps = BITRATES[1 if version == 3 else 2][bitrate]
    length = samples // 8 * kbps * 1000 // RATES[version][rate] + (head >> 9 & 1)
    return length, samples, version, 1 if head >> 6 & 3 == 3 else 2


def _with_frame_count(data: bytes) -> bytes:
    """Return an MP3 file with a frame that counts the others, a Xing header, if it has none."""
    start = 0
    if data.startswith(b"ID3"):
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    while start < len(data) and not (_frame(data, start)[0] and _frame(data, start + _frame(data, start)[0])[0]):
        start = data.find(b"\xff", start + 1)
        if start < 0:
            return data
    length, _, version, channels = _frame(data, start)
    side = {(3, 2): 32, (3, 1): 17, (2, 2): 17, (0, 2): 17}.get((version, channels), 9)
    if data[start + 4 + side : start + 8 + side] in (b"Xing", b"Info") or data[start + 36 : start + 40] == b"VBRI":
        return data
    count, at = 0, start
    while 0 <= at < len(data):
        length = _frame(data, at)[0]
        count += 1 if length else 0
        at = at + length if length else data.find(b"\xff", at + 1)
    head = bytes([0xFF, data[start + 1] | 1, 0x90 | data[start + 2] & 0x0C, data[start + 3]])
    length = _frame(head, 0)[0]
    tag = head + bytes(side) + b"Xing" + struct.pack(">II", 1, count)
    return data[:start] + tag.ljust(length, b"\0") + data[start:]
