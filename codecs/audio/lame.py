"""Checksums of MP3 files that LAME writes."""

from __future__ import annotations

TAG = 156
"""Bytes from "Xing" or "Info" to the end of the tag."""


def verify(data: bytes) -> None:
    """Raise ValueError unless the LAME tag of the first frame has the file's length and matching CRC-16s."""
    end = max(data.find(b"Xing", 0, 64), data.find(b"Info", 0, 64)) + TAG
    if end < TAG or len(data) < end:
        raise ValueError("it has no LAME tag")
    if int.from_bytes(data[end - 8 : end - 4], "big") != len(data):
        raise ValueError("its length is not the one in its LAME tag")
    if _crc16(data[: end - 2]) != int.from_bytes(data[end - 2 : end], "big"):
        raise ValueError("the CRC of its LAME tag does not match")
    if _crc16(data[end:]) != int.from_bytes(data[end - 4 : end - 2], "big"):
        raise ValueError("the CRC of its music does not match")


def _crc16_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc16_table()


def _crc16(data: bytes) -> int:
    """Return LAME's CRC-16: polynomial 0x8005, reflected, initial value 0."""
    crc = 0
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 255]
    return crc
