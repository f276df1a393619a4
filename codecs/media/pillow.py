"""Images of Pillow → pixels in sRGB, upright, with all their bits."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from tokenloom import memory

from ..types import MAX_PIXELS
from . import color, depth, metadata, notices
from .depth import Pixels

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "JPEG2000", "BMP", "TIFF", "PPM", "GIF")
"""Formats that are opened. Others, such as EPS, for which Pillow starts Ghostscript, are refused by any name."""
HEAD = 2**16
"""Bytes at the start of a file that are searched for its depth and color space."""
PIXEL_BYTES, LOADED_BYTES, DEEP_BYTES = 36, 5, 29
"""Most bytes per pixel, measured: to read an image as float32, to load one of 8 bits, and one of more bits."""
FORMAT_BYTES = {"WEBP": 17, "AVIF": 10, "JPEG2000": 20}
"""Format → the same for 8 bits, where it is more than LOADED_BYTES."""
IGNORED = "its color profile is ignored, and its colors are taken as sRGB"


class OpenedFile:
    """An image file: it opens as often as needed, and holds what Pillow does not read of its metadata.

    `metadata_of` is the file that the metadata comes from, if `file` is a copy without it.
    """

    def __init__(self, file: BinaryIO, metadata_of: BinaryIO | None = None) -> None:
        self.file = file
        original = metadata_of or file
        original.seek(0)
        self.head = original.read(HEAD)
        self.chunks = metadata.png_chunks(original) if self.head.startswith(metadata.PNG) else {}

    def open(self) -> Any:
        """Read the header. The pixels are not loaded yet."""
        return open_image(self.file, FORMATS)


def open_image(file: BinaryIO, formats: Sequence[str]) -> Any:
    """Read the header of an image file, as Pillow's own function does, but of any number of pixels.

    Callers compare the size with limits of ours before they load the pixels.
    """
    Image.init()
    file.seek(0)
    head = file.read(16)
    for factory, accepts in (Image.OPEN[name] for name in formats):
        if accepts is None or accepts(head) is True:
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # it is of another format, or damaged
                continue
    raise UnidentifiedImageError("its format is damaged or not supported")


@dataclass(frozen=True, eq=False)
class Raster:
    """The loaded pixels of an image, converted to sRGB where they are needed."""

    stored: Any
    """An image of Pillow with 8 bits per channel, or converted pixels (height, width[, bands])."""
    white: float
    space: color.Profile | color.Space | None = None
    """Color space of an image of Pillow; None for sRGB."""
    orientation: int = 1
    """Orientation of EXIF."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        stored = self.stored.shape[:2] if isinstance(self.stored, np.ndarray) else self.stored.size[::-1]
        return (stored[1], stored[0]) if self.orientation >= 5 else (stored[0], stored[1])

    def part(self, rows: range | None = None, columns: range | None = None) -> Pixels:
        """Return some pixels, upright: (height, width[, bands]) with alpha last, and the value of white.

        All rows or columns are returned if None is given.
        """
        height, width = self.size
        rows, columns = rows or range(height), columns or range(width)
        if self.orientation in (3, 4, 7, 8):
            rows = range(height - rows.stop, height - rows.start)
        if self.orientation in (2, 3, 6, 7):
            columns = range(width - columns.stop, width - columns.start)
        down, across = (columns, rows) if self.orientation >= 5 else (rows, columns)
        if isinstance(self.stored, np.ndarray):
            array = self.stored[down.start : down.stop, across.start : across.stop]
        else:
            part = self.stored
            if (len(down), len(across)) != part.size[::-1]:
                part = part.crop((across.start, down.start, across.stop, down.stop))
            array = _eight_bit(part, self.space)
        return _upright(array, self.orientation), self.white


def read_file(file: BinaryIO, name: str, *, whole: bool) -> Raster:
    """Load an image file. Metadata that Pillow refuses is ignored, with a notice of what it held.

    `whole` says that all pixels are converted at once. Raises what `raster` raises.
    """
    try:
        opened = OpenedFile(file)
        return raster(opened.open(), name, opened, whole=whole)
    except Exception as error:
        plain = metadata.stripped(file)
        if plain is None:
            if isinstance(error, UnidentifiedImageError) and (layout := depth.tiff_layout(file)):
                raise ValueError(f"a TIFF of {layout} cannot be read; convert it to 16-bit PNG") from error
            raise
        opened = OpenedFile(io.BytesIO(plain), file)
        return raster(opened.open(), name, opened, whole=whole)


def raster(image: Any, name: str, opened: OpenedFile | None = None, *, whole: bool) -> Raster:
    """Load an image of Pillow.

    Args:
        image: An image of Pillow. If it is from a file and not loaded yet, `opened` is that file.
        name: Name of the image for notices.
        opened: See `image`.
        whole: Whether all pixels are converted at once.

    Raises:
        ValueError: It has too many pixels or several frames, or values out of range.
    """
    each = DEEP_BYTES if depth.is_deep(image) else FORMAT_BYTES.get(image.format or "", LOADED_BYTES)
    require(image.width, image.height, "it", whole=whole, each=each)
    head, chunks = (opened.head, opened.chunks) if opened else (b"", {})
    _check_still(image, chunks)
    if what := depth.lost(image, head):
        notices.tell(name, depth.CUT, what)
    space = _space(image, name, head, chunks)
    pixels = depth.read(image, opened.open if opened else None, head)
    if pixels is None:
        image.load()
        loaded, white, space = image, 255, _fitting(space, image, name)
    else:
        (loaded, white), space = _deep(*pixels, space, name), None
    try:
        turn = metadata.orientation(image, chunks.get(b"eXIf"))
    except ValueError:
        notices.tell(name, "its EXIF data is damaged, so its orientation is not known")
        turn = 1
    return Raster(loaded, white, space, turn)


def _fitting(space: color.Profile | color.Space | None, image: Any, name: str) -> color.Profile | color.Space | None:
    """Return a color space if the colors of an image of 8 bits can be in it, else None with a notice."""
    try:
        _eight_bit(image.crop((0, 0, 1, 1)), space)
    except ValueError as error:
        notices.tell(name, IGNORED, str(error))
        return None
    return space


def _eight_bit(image: Any, space: color.Profile | color.Space | None) -> np.ndarray:
    """Convert a loaded image of 8 bits per channel to sRGB: 3 bands, or 4 if it has transparent pixels."""
    if isinstance(space, color.Profile):
        return np.asarray(space.convert(image))
    array = np.asarray(color.to_rgb(image))
    if space:
        converted = (space.to_srgb(array[..., :3] / np.float32(255)) * 255).round().astype(np.uint8)
        array = np.concatenate([converted, array[..., 3:]], -1)
    return array


def _deep(array: np.ndarray, white: float, space: color.Profile | color.Space | None, name: str) -> Pixels:
    """Convert pixels of more than 8 bits to sRGB."""
    array = array[..., None] if array.ndim == 2 else array
    bands = 1 if array.shape[-1] < 3 else 3
    if isinstance(space, color.Profile):
        space = None if space.is_srgb else space.space or space
    if space is None:
        return array, white
    values, alpha = array[..., :bands] / np.float32(white), array[..., bands:] / np.float32(white)
    if isinstance(space, color.Profile):
        levels = (values.clip(0, 1) * 255).round().astype(np.uint8)
        try:
            converted = np.asarray(space.convert(Image.fromarray(levels.squeeze(-1) if bands == 1 else levels)))
        except ValueError as error:
            notices.tell(name, IGNORED, str(error))
            return array, white
        notices.tell(name, depth.CUT, "its color profile has tables")
        values = converted.astype(np.float32) / 255
    elif space.matrix is None and bands == 3:
        notices.tell(name, IGNORED, "it is for GRAY colors, the image has RGB")
    else:
        values = space.to_srgb(values)
    return np.concatenate([values, alpha], -1), 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels as an orientation of EXIF, 1 to 8, says."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    down, across = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return array[:: -1 if down else 1, :: -1 if across else 1]


def require(width: int, height: int, name: str, *, whole: bool, each: int = LOADED_BYTES) -> None:
    """Raise ValueError for an image of too many pixels, or one that takes too much memory.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        name: Name of the image for messages.
        whole: Whether all pixels are converted to float32 at once.
        each: Bytes per pixel of the loaded image.
    """
    if whole and width * height > MAX_PIXELS:
        raise ValueError(f"{name} must have at most {MAX_PIXELS} pixels, got {width} x {height}")
    memory.require_values(width * height, PIXEL_BYTES if whole else each, "reading it")


def _check_still(image: Any, chunks: Mapping[bytes, bytes]) -> None:
    try:
        frames = image.n_frames if getattr(image, "is_animated", False) else 1
    except Exception:  # the pages behind the first one are damaged
        frames = 1
    frames = max(frames, int.from_bytes(chunks.get(b"acTL", b"")[:4], "big"))
    if frames > 1 and image.format != "MPO":  # MPO: stereo photographs
        what = f"has {frames} pages" if image.format == "TIFF" else f"is animated ({frames} frames)"
        raise ValueError(f"it must be a still image, it {what}")


def _space(image: Any, name: str, head: bytes, chunks: Mapping[bytes, bytes]) -> color.Profile | color.Space | None:
    """Return the color space of an image, None for sRGB. What is damaged or not known counts as sRGB, with a notice."""
    try:
        if b"cICP" in chunks:
            return color.from_codes(*chunks[b"cICP"][:2])
        icc = metadata.png_profile(chunks[b"iCCP"]) if b"iCCP" in chunks else image.info.get("icc_profile")
        if icc:
            return color.profile(bytes(icc))
        if image.format == "AVIF" and (at := head.find(b"colrnclx")) >= 0:
            return color.from_codes(*struct.unpack_from(">HH", head, at + 8))
        return color.from_png(chunks)
    except (ValueError, TypeError, ArithmeticError, struct.error) as error:
        reason = str(error) if type(error) is ValueError else "it is damaged"
        notices.tell(name, IGNORED, reason)
        return None
