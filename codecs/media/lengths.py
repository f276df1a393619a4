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

from .notices import Notice

CUT = "it ends before the length that its header states"
LONGER = "it holds more samples than its header states, which are not read"
UNKNOWN = 2**62
"""Lengths from here on mean that the length is not known, if they have 64 bits; in samples or bytes."""
MOST_CHUNKS = 10_000
"""Number of chunks that are looked at before that of the samples."""
OFFSET = 8
"""Bytes before the samples in their chunk of an AIFF file. Some recorders leave this size in the header."""
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


def repaired(file: BinaryIO) -> tuple[list[BinaryIO], Notice | None]:
    """Return the streams of an audio file, and a notice if it holds less or more than it states.

    A file that states its length is returned as it is.
    """
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if head[:4] in CHUNKED:
        return _chunked(file, CHUNKED[head[:4]], head[:4])
    if head[:4] == b".snd":
        return _sun(file, *struct.unpack(">II", head[4:12].ljust(8, b"\0")))
    if head[:4] == b"OggS":
        data = file.read()
        starts, whole = _ogg_streams(data)
        notice = None if whole else Notice("its last page is missing")
        if len(starts) > 1:
            return [io.BytesIO(data[a:b]) for a, b in zip(starts, [*starts[1:], len(data)], strict=True)], notice
        file.seek(0)
        return [file], notice
    if head[:3] == b"ID3" or (head[0:1] == b"\xff" and len(head) > 1 and head[1] & 0xE6 == 0xE2):
        return [io.BytesIO(_with_frame_count(part)) for part in _mp3_streams(file.read())], None
    return [file], None


def _sun(file: BinaryIO, start: int, size: int) -> tuple[list[BinaryIO], Notice | None]:
    """Return what `repaired` returns, for a file of Sun's format: where its samples start, and their size in bytes."""
    left = file.seek(0, 2) - start
    file.seek(0)
    if size == 0:
        return [_patched(file, {8: b"\xff" * 4})], None
    return [file], None if size >= PIPED else _compared(left, size, unused=True)


def _compared(left: int, size: int, *, unused: bool) -> Notice | None:
    """Return a notice if `left` bytes are less than the stated size, or if a tenth of them is behind it and unused."""
    if left < size:
        return Notice(CUT, f"{left} of {size} bytes")
    return Notice(LONGER, f"{size} of {left} bytes") if unused and left - size > left / 10 else None


def _chunked(file: BinaryIO, layout: Layout, kind: bytes) -> tuple[list[BinaryIO], Notice | None]:
    end, at, size = file.seek(0, 2), layout.start, 0
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
    followed = _is_chunk(file, at + head + size + -size % layout.padding, end, layout)
    never_set = {
        b"RIFF": size == 0 and not followed, W64[:4]: size >= UNKNOWN,
        b"FORM": size == OFFSET < left and not followed,
    }.get(kind, size == 0 or size >= UNKNOWN)  # fmt: skip
    if chunk[: layout.name] != layout.samples or left <= 0:
        file.seek(0)
        return [file], None
    known = PIPED if layout.size[1] == "I" and kind != b"RF64" else UNKNOWN
    notice = None if never_set or not 0 < size < known else _compared(left, size, unused=not followed)
    if never_set or (kind == b"caff" and size > left):  # libsndfile refuses to read what is there
        value = struct.pack(order + ("I" if kind == b"FORM" else "Q"), 0 if own else left)
        value = b"\xff" * 4 if kind == b"RIFF" else value
        return [_patched(file, {field: value} | ({20: struct.pack("<Q", end - 8)} if kind == b"RF64" else {}))], notice
    file.seek(0)
    return [file], notice


def _is_chunk(file: BinaryIO, at: int, end: int, layout: Layout) -> bool:
    """Whether a chunk with a printable name that fits into the file begins at a byte."""
    if at >= end:
        return False
    file.seek(at)
    head = file.read(layout.name + struct.calcsize(layout.size))
    name, size = head[:4], int.from_bytes(head[layout.name :], "little" if layout.size[0] == "<" else "big")
    size -= len(head) if layout == CHUNKED[W64[:4]] else 0
    return name.isascii() and name.decode().isprintable() and at + len(head) + size <= end + layout.padding


def _patched(file: BinaryIO, changes: dict[int, bytes]) -> BinaryIO:
    file.seek(0)
    data = bytearray(file.read())
    for at, value in changes.items():
        data[at : at + len(value)] = value
    return io.BytesIO(data)


def _ogg_streams(data: bytes) -> tuple[list[int], bool]:
    """Return the first byte of each chained stream, and whether the last page is there and ends a stream.

    Streams that play at once begin with adjacent pages.
    """
    starts, at, begins, ends = [], 0, False, False
    while data.startswith(b"OggS", at) and at + 27 <= len(data):
        began, begins = begins, bool(data[at + 5] & 2)
        if begins and not began:
            starts.append(at)
        ends, table = bool(data[at + 5] & 4), at + 27
        body = table + data[at + 26]
        at = body + sum(data[table:body])
    return starts, ends and at <= len(data)


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


def _mp3_streams(data: bytes) -> list[bytes]:
    """Split MP3 files that were written one after another, where a frame counts the others."""
    first = _first_frame(data)
    starts = [
        0 if _tag(data) < len(data) else first,
        *(at for at in _frames(data, first) if at > first and _xing(data, at)),
    ][:MOST_CHUNKS]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def _first_frame(data: bytes) -> int:
    """Return where the first of two frames in a row begins; the length of the data if there are none."""
    start = _tag(data)
    start = start if start < len(data) else 0  # the size is wrong
    while not (_frame(data, start)[0] and _frame(data, start + _frame(data, start)[0])[0]):
        start = data.find(b"\xff", start + 1)
        if start < 0:
            return len(data)
    return start


def _tag(data: bytes) -> int:
    """Return the bytes of a tag at the start of an MP3 file, as it states them; 0 without one."""
    if not data.startswith(b"ID3"):
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))


def _frames(data: bytes, at: int) -> Iterator[int]:
    """Yield where each frame begins, from a byte on."""
    while 0 <= at < len(data):
        length = _frame(data, at)[0]
        if length:
            yield at
        at = at + length if length else data.find(b"\xff", at + 1)


def _side(data: bytes, at: int) -> int:
    """Return the bytes between the header of a frame and the place of a Xing header."""
    _, _, version, channels = _frame(data, at)
    return {(3, 2): 32, (3, 1): 17, (2, 2): 17, (0, 2): 17}.get((version, channels), 9)


def _xing(data: bytes, at: int) -> int:
    """Return where the Xing header of a frame begins, 0 if it has none."""
    at += 4 + _side(data, at)
    return at if data[at : at + 4] in (b"Xing", b"Info") else 0


def _with_frame_count(data: bytes) -> bytes:
    """Return an MP3 file with a frame that counts the others, a Xing header, which counts at least those there are."""
    start = _first_frame(data)
    if start == len(data) or data[start + 36 : start + 40] == b"VBRI":
        return data
    kind = data[start + 1] & 0xFE, data[start + 2] & 0x0C
    count = sum((data[at + 1] & 0xFE, data[at + 2] & 0x0C) == kind for at in _frames(data, start))
    if at := _xing(data, start):
        stated = int.from_bytes(data[at + 8 : at + 12], "big")
        lies = data[at + 7] & 1 and stated < 0.98 * count - 2  # such as a file that another one was appended to
        return data[: at + 8] + struct.pack(">I", count - 1) + data[at + 12 :] if lies else data
    side = _side(data, start)
    head = bytes([0xFF, data[start + 1] | 1, 0x90 | data[start + 2] & 0x0C, data[start + 3]])
    length = _frame(head, 0)[0]
    tag = head + bytes(side) + b"Xing" + struct.pack(">II", 1, count)
    return data[:start] + tag.ljust(length, b"\0") + data[start:]
