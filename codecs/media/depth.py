"""Images with more than 8 bits per channel. Pillow reads 16-bit color by its upper bytes alone.

A second look at the file, with the order of the two bytes swapped, reads the lower bytes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

Pixels = tuple[np.ndarray, float]
"""Pixels (height, width[, bands]) with alpha last, and the value of white."""
BITS, COMPRESSION, PHOTOMETRIC, PLANES, KIND = 258, 259, 262, 284, 339
"""Tags of TIFF."""
CUT = "more than 8 bits per channel are read as 8"
SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Order of bytes at the end of a raw mode of Pillow → the opposite order."""


def is_deep(image: Any) -> bool:
    """Whether the pixels of an opened file have more bits than Pillow's mode keeps. False after they are loaded."""
    return (
        _codec(image).startswith("ppm") or ";16" in _rawmode(image) or (bool(_codec(image)) and _tiff_bits(image) == 16)
    )


def read(image: Any, again: Callable[[], Any] | None = None, head: bytes = b"") -> Pixels | None:
    """Return the pixels of an image with more than 8 bits per channel; None for 8-bit images.

    Args:
        image: An image of Pillow.
        again: Opens the same file once more; needed if `is_deep`.
        head: The start of the file.

    Raises:
        ValueError: The values of a 32-bit image are outside 0 to 65535.
    """
    rawmode = _rawmode(image)
    if image.format == "PPM" and _codec(image).startswith("ppm") and image.mode != "1":
        return _ppm(image)
    if image.mode.startswith("I;16"):
        return _gray16(image, head)
    if image.mode == "I":  # 32 bits
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"its values must be in 0 to 65535, got {array.min()} to {array.max()}")
        return array, 65535
    if image.mode == "F":
        return np.asarray(image), 1
    if image.mode not in ("RGB", "RGBA") or again is None or not is_deep(image) or _packed_planes(image):
        return None
    if rawmode == "LA;16B":  # as many bytes as 8-bit RGBA: gray and alpha, upper and lower byte of each
        high, low = np.moveaxis(_loaded(image, "RGBA").reshape(image.height, image.width, 2, 2), -1, 0)
    elif ";16" not in rawmode:
        return _planar(image, again), 65535
    else:
        plain = rawmode.replace("RGBa", "RGBA")
        high, low = _loaded(image, plain), _loaded(again(), plain[:-1] + SWAPPED[plain[-1]])
    pixels = high.astype(np.uint16) * 256 + low
    if rawmode.startswith("RGBa"):  # the color is multiplied by alpha
        color, alpha = pixels[..., :3].astype(np.float64), pixels[..., 3:]
        pixels = np.concatenate([np.minimum(color * 65535 / np.maximum(alpha, 1), 65535), alpha], -1)
    return _transparent(image, pixels), 65535


def lost(image: Any, head: bytes) -> str:
    """Return what 8 bits do not keep of an image that is read so, such as "10-bit AVIF", else "".

    `head` is the start of the file.
    """
    if "CMYK;16" in _rawmode(image):
        return "16-bit CMYK"
    if _packed_planes(image):
        return "16-bit TIFF of compressed planes"
    if image.format == "AVIF" and (at := head.find(b"av1C")) >= 0 and len(head) > at + 6:
        flags = head[at + 6]
        if flags & 0x40:
            return f"{12 if flags & 0x20 else 10}-bit AVIF"
    if image.format == "JPEG2000" and (bits := jpeg2000_bits(head)) > 8:
        return f"{bits}-bit JPEG 2000"
    return ""


def tiff_layout(file: BinaryIO) -> str:
    """Return the pixels of a TIFF file in words, "3 channels of 32-bit float, compression 1"; "" for other files."""
    try:
        file.seek(0)
        head = file.read(8)
        tags = ImageFileDirectory_v2(head + file.read(8) if b"+" in head[:4] else head)
        file.seek(tags.next)
        tags.load(file)
        bits, kind = tags.get(BITS, (1,)), tags.get(KIND, (1,))[0]
    except Exception:  # Pillow raises a dozen types
        return ""
    name = {1: "integers", 2: "signed integers", 3: "floats"}.get(kind, "values of an unknown kind")
    channels = f"{len(bits)} channel{'s' * (len(bits) > 1)}"
    return f"{channels} of {max(bits)}-bit {name}, compression {tags.get(COMPRESSION, 1)}"


def jpeg2000_bits(head: bytes) -> int:
    """Return the bits per sample that the header of a codestream states, 8 if there is none."""
    at = head.find(b"\xff\x4f\xff\x51") + 42
    return (head[at] & 0x7F) + 1 if 42 <= at < len(head) else 8


def _codec(image: Any) -> str:
    return image.tile[0].codec_name if getattr(image, "tile", None) else ""


def _rawmode(image: Any) -> str:
    """Return Pillow's name for the layout of the pixels in the file; "" after they are loaded."""
    args = image.tile[0].args if getattr(image, "tile", None) else ""
    return str(args[0]) if isinstance(args, tuple) and args else str(args or "")


def _tiff_bits(image: Any) -> int:
    """Return the largest number of bits per channel of a TIFF file, else 0."""
    bits = image.tag_v2.get(BITS, (1,)) if image.format == "TIFF" else (0,)
    return max(bits if isinstance(bits, tuple) else (bits,))


def _packed_planes(image: Any) -> bool:
    """Whether an image is a compressed 16-bit TIFF with a plane for each channel: libtiff chooses its bytes itself."""
    return _codec(image) == "libtiff" and _tiff_bits(image) == 16 and image.tag_v2.get(PLANES) == 2


def _loaded(image: Any, rawmode: str) -> np.ndarray:
    """Load an opened image as if its pixels were laid out as `rawmode`."""
    tiles = [tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
             for tile in image.tile]  # fmt: skip
    image.tile = tiles
    return np.asarray(image)


def _planar(image: Any, again: Callable[[], Any]) -> np.ndarray:
    """Return the pixels of an uncompressed 16-bit TIFF file with a plane for each channel. Pillow mixes them up."""
    mode = "I;16B" if image.tag_v2.prefix == b"MM" else "I;16"
    bands, planes = len(image.getbands()), []
    each = len(image.tile) // bands
    for k in range(bands):
        plane = again()
        plane.tile, plane._mode = plane.tile[k * each : (k + 1) * each], mode
        planes.append(_loaded(plane, mode))
    return np.stack(planes, -1)


def _gray16(image: Any, head: bytes) -> Pixels:
    """Return the pixels of an image of mode I;16. Its values need not fill 16 bits."""
    white = 65535
    if image.format == "TIFF":
        white = 2 ** _tiff_bits(image) - 1
    elif image.format == "JPEG2000":
        bits = jpeg2000_bits(head)
        white = (2**bits - 1) << (16 - bits)
    inverted = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0
    pixels = np.asarray(image).astype(np.uint16)[..., None]
    return _transparent(image, white - pixels if inverted else pixels), white


def _transparent(image: Any, pixels: np.ndarray) -> np.ndarray:
    """Add an alpha channel if a PNG file names one color as transparent."""
    key = image.info.get("transparency")
    if key is None or pixels.shape[-1] in (2, 4):
        return pixels
    opaque = (pixels != np.array(key, np.uint16)).any(-1, keepdims=True)
    return np.concatenate([pixels, opaque.astype(np.uint16) * 65535], -1)


def _ppm(image: Any) -> Pixels:
    """Return the pixels of a PPM or PGM file by their own white, which Pillow rounds to 8 or 16 bits."""
    tile = image.tile[0]
    white, bands = int(tile.args[-1]), 3 if image.mode == "RGB" else 1
    count = image.width * image.height * bands
    image.fp.seek(tile.offset)
    if tile.codec_name == "ppm":
        dtype = np.dtype(">u2" if white > 255 else np.uint8)
        pixels = np.frombuffer(image.fp.read(count * dtype.itemsize), dtype)
    else:
        words = re.sub(rb"#[^\r\n]*", b" ", image.fp.read()).split()[:count]
        pixels = np.array(words).astype(np.int64) if words else np.zeros(0)
    if len(pixels) < count:
        raise ValueError(f"it ends after {len(pixels)} of {count} values")
    if pixels.max() > white or pixels.min() < 0:
        raise ValueError(f"its values must be in 0 to {white}, got {pixels.min()} to {pixels.max()}")
    return pixels.reshape(image.height, image.width, bands), white
