"""Bytes of a text file → str. All texts, captions and metadata are decoded here."""

from __future__ import annotations

import codecs

MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
"""Byte-order mark → encoding. The mark of UTF-32-LE begins with that of UTF-16-LE."""


def decode_text(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 or UTF-32 with a byte-order mark. The mark is left out; all else stays as it is.

    Raises:
        ValueError: The bytes are in another encoding, such as Latin-1 or cp1252.
    """
    mark, encoding = next(((mark, name) for mark, name in MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start + len(mark)
        found = f"byte 0x{data[at]:02x} at position {at}" if at < len(data) else "a cut file"
        if mark:
            raise ValueError(f"it must be {encoding.upper()}, as its byte-order mark says, got {found}") from error
        raise ValueError(
            f"it must be UTF-8, or UTF-16 or UTF-32 with a byte-order mark, got {found}; "
            "if it is Windows text, convert it: iconv -f cp1252 -t utf-8"
        ) from error


def decode_caption(data: bytes) -> str:
    """Decode a caption: line ends become newlines, blanks and NUL at both ends are left out.

    Raises:
        ValueError: The encoding is unknown. A NUL inside the text is a sign of UTF-16 without a byte-order mark.
    """
    text = decode_text(data).replace("\r\n", "\n").strip("\0 \t\r\n\v\f").strip()
    if "\0" in text:
        raise ValueError("it holds NUL characters, as UTF-16 without a byte-order mark does; save it as UTF-8")
    return text
