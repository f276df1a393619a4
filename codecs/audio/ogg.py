"""Ogg pages (RFC 3533): deterministic bytes, and checks for damage."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

HEADER = 27
BOS, EOS = 2, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc32(data: bytes) -> int:
    """Return Ogg's CRC-32: zlib's polynomial without its bit reversal, initial value and final inversion."""
    mirrored = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def pages(data: bytes) -> Iterator[bytes]:
    """Yield the pages of a file. Raises ValueError for other bytes."""
    start = 0
    while start < len(data):
        table = start + HEADER
        body = table + data[table - 1] if table <= len(data) else len(data) + 1
        end = body + sum(data[table:body])
        if data[start : start + 5] != b"OggS\0" or end > len(data):
            raise ValueError(f"there is no complete Ogg page at byte {start}")
        yield data[start:end]
        start = end


def verify(data: bytes) -> None:
    """Raise ValueError unless a file is one complete logical stream and the CRC of every page matches.

    libsndfile skips damaged pages without an error.
    """
    flags = 0
    for number, page in enumerate(pages(data)):
        if crc32(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            raise ValueError(f"the CRC of Ogg page {number} does not match")
        if int.from_bytes(page[18:22], "little") != number or bool(page[5] & BOS) != (number == 0) or flags & EOS:
            raise ValueError(f"Ogg page {number} is out of order")
        flags = page[5]
    if not flags & EOS:
        raise ValueError("the last Ogg page is missing")


def normalize(data: bytes) -> bytes:
    """Set the random serial number to 0, and remove libsndfile's padding after the comments of Opus.

    The padding is about 800 bytes, 1.2 kbit/s for 5 seconds. Readers may discard it (RFC 7845, 5.2).
    """
    out = bytearray()
    for page in pages(data):
        table, body = page[HEADER : HEADER + page[26]], page[HEADER + page[26] :]
        if body.startswith(b"OpusTags"):
            body = _trim_comments(body)
            table = bytes([255] * (len(body) // 255) + [len(body) % 255])
        head = page[:14] + bytes(4) + page[18:22] + bytes(4) + bytes([len(table)]) + table
        sealed = crc32(head + body).to_bytes(4, "little")
        out += head[:22] + sealed + head[26:] + body
    return bytes(out)


def _trim_comments(packet: bytes) -> bytes:
    """Return an OpusTags packet without the padding after its last comment."""
    position = 8 + 4 + int.from_bytes(packet[8:12], "little")
    comments = int.from_bytes(packet[position : position + 4], "little")
    position += 4
    for _ in range(comments):
        position += 4 + int.from_bytes(packet[position : position + 4], "little")
    return packet[:position]
