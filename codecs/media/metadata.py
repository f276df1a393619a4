"""Metadata of image files: what the pixels need of it, and files without the rest.

Pillow refuses the pixels of a file if its metadata is damaged or longer than 1 MB, and has only settings for the whole
process against it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image

LONGEST = 2**24
"""Longest chunk and profile that is read, in bytes."""
LARGEST_FILE = 2**30
"""Largest file whose metadata is taken out, in bytes."""
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
SHOWN = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""Chunks of PNG that hold its pixels. What else matters is read by `png_chunks`."""
APPS = {0xE0: (b"JFIF\0", 16), 0xEE: (b"Adobe", 14)}
"""Segments APPn of JPEG that change its pixels → their start and least length."""
ORIENTATION = 0x0112


def png_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """Return the first chunk of each kind in a PNG file, except pixels and text. A damaged or too long one is empty."""
    found: dict[bytes, bytes] = {}
    file.seek(len(PNG))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            break
        if kind in (b"IDAT", b"fdAT", b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, 1)
        elif length > LONGEST:
            file.seek(length + 4, 1)
            found.setdefault(kind, b"")
        else:
            data, check = file.read(length), file.read(4)
            whole = int.from_bytes(check, "big") == zlib.crc32(kind + data)
            found.setdefault(kind, data if whole else b"")
    return found


def png_profile(chunk: bytes) -> bytes:
    """Return the ICC profile in a chunk iCCP. Raises ValueError if it is damaged, or longer than LONGEST."""
    _, _, packed = chunk.partition(b"\0")
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(packed[1:], LONGEST)
    except zlib.error as error:
        raise ValueError("it is damaged") from error
    if stream.unconsumed_tail:
        raise ValueError(f"it is longer than {LONGEST} bytes")
    return profile


def stripped(file: BinaryIO) -> bytes | None:
    """Return a PNG or JPEG file without metadata; None for other files and if there is nothing to leave out."""
    file.seek(0)
    data = file.read(LARGEST_FILE + 1)
    if len(data) <= LARGEST_FILE and data.startswith((PNG, JPEG)):
        parts = b"".join(_png_parts(data) if data.startswith(PNG) else _jpeg_parts(data))
        return parts if len(parts) < len(data) else None
    return None


def orientation(image: Image.Image, exif: bytes | None = None) -> int:
    """Return the orientation of EXIF or XMP, from 1 to 8. Raises ValueError if the metadata is damaged.

    `exif` is the chunk eXIf of PNG, in place of the image's own EXIF.
    """
    try:
        if exif is not None:
            parsed = Image.Exif()
            parsed.load(b"Exif\0\0" + exif)
            value: Any = parsed.get(ORIENTATION, 1)
        else:
            value = image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # Pillow raises a dozen types
        raise ValueError("it is damaged") from error
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_parts(data: bytes) -> Iterator[bytes]:
    yield PNG
    at = len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in SHOWN:
            yield data[at : at + length + 12]
        at += length + 12


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """Yield the start of the image and its segments except comments and APPn."""
    yield JPEG
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:  # the scans follow
            break
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        name, least = APPS.get(marker, (b"", 2**16))
        useful = length >= least and data.startswith(name, at + 4)
        if useful or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            yield data[at : at + length + 2]
        at += length + 2
    yield data[at:]
