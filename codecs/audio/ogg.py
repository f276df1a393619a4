"""Ogg pages (RFC 3533): make the bytes of a file repeatable, and refuse damaged files."""

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
    """Yield the pages of a file. Raises ValueError unless they fill it."""
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
    """Raise ValueError unless this is one complete logical stream and the CRC of every page matches.

    libsndfile silently skips damaged pages and plays the rest.
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
    """Return the same stream with serial number 0 and without the zeros that libsndfile puts after Opus's comments.

    The encoder draws serial numbers at random. The padding, some 800 bytes for comments written later, would count as
    1.2 kbit/s on 5 seconds; RFC 7845, 5.2 lets readers discard it.
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
    """Return an OpusTags packet up to its last comment."""
    position = 8 + 4 + int.from_bytes(packet[8:12], "little")
    comments = int.from_bytes(packet[position : position + 4], "little")
    position += 4
    for _ in range(comments):
        position += 4 + int.from_bytes(packet[position : position + 4], "little")
    return packet[:position]
