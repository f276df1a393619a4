"""Image files, PIL images and arrays ↔ float32 (3, height, width) in [0, 1]."""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tokenloom import memory

from ..types import Modality
from . import depth, notices, pillow
from .sources import Source, binary, describe, label, refusing, require_file, require_range

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"}, ".jpg": {"format": "JPEG", "quality": 95}, ".jpeg": {"format": "JPEG", "quality": 95},
    ".webp": {"format": "WEBP", "lossless": True}, ".avif": {"format": "AVIF", "quality": 90},
    ".jp2": {"format": "JPEG2000"}, ".bmp": {"format": "BMP"}, ".tif": {"format": "TIFF"}, ".tiff": {"format": "TIFF"},
    ".ppm": {"format": "PPM"},
}  # fmt: skip
"""Suffix → options of Pillow for writing."""
LARGE = 2**24
"""Pixels of the largest picture that is read as a whole, if there is a choice."""
IMAGE_SUFFIXES = (*FORMATS, ".gif", ".j2k", ".jfif", ".jpe", ".mpo", ".apng", ".pgm", ".pbm", ".pnm")
SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
"""First bytes of image files."""
SCALES = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}
"""dtype of an array → value of white."""


def to_uint8(image: Tensor) -> Tensor:
    """Round values in [0, 1] to the nearest of 256 levels, uint8. All 8-bit rounding uses this function."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def between_levels(image: Tensor) -> bool:
    """Whether some values are not multiples of 1/255: 16-bit color, or transparency over white."""
    return not _on_grid(image, 255)


def _on_grid(image: Tensor, steps: int) -> bool:
    scaled = image.double() * steps
    return bool((scaled - scaled.round()).abs().max() < 0.02)


def read_image(source: Source) -> Tensor:
    """Return an image as float32 (3, height, width) in [0, 1]."""
    name = label(source)
    return _tensor(*_raster(source, name, whole=True).part(), name)


def is_large(source: Source) -> bool:
    """Return whether the header of an image file states more than LARGE pixels."""
    with refusing(label(source), Modality.IMAGE), binary(source) as file:
        width, height = pillow.open_image(file, pillow.FORMATS).size
    return width * height > LARGE


class Picture:
    """An image that is converted to float32 where it is needed. Of 8 bits, it then takes 4 bytes per pixel.

    Args:
        source: As for `read`, of any number of pixels.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the source is damaged, animated, or no image, or takes more memory than memory.py allows.
    """

    def __init__(self, source: Source) -> None:
        if isinstance(source, str | os.PathLike):
            require_file(Path(source), Modality.IMAGE)
        self.name = label(source)
        self._raster = _raster(source, self.name, whole=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._raster.size

    def part(self, rows: range, columns: range) -> Tensor:
        """Return some pixels, float32 (3, rows, columns) in [0, 1]. They are those that `read` returns.

        Raises:
            ValueError: If values are out of range.
        """
        return _tensor(*self._raster.part(rows, columns), self.name)


def _raster(source: Source, name: str, *, whole: bool) -> pillow.Raster:
    """Load an image. `whole` says that all pixels are converted at once."""
    if isinstance(source, np.ndarray):
        return _from_array(source, name, whole=whole)
    with refusing(name, Modality.IMAGE), ExitStack() as files:
        if isinstance(source, Image.Image) and not depth.is_deep(source):
            return pillow.raster(source, name, whole=whole)
        file = _file_of(source) if isinstance(source, Image.Image) else files.enter_context(binary(source))
        return pillow.read_file(file, name, whole=whole)


def _file_of(image: Any) -> BinaryIO:
    """Return the file of an image of Pillow that is not loaded yet."""
    position = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(position)
    return io.BytesIO(data)


def _from_array(array: np.ndarray, name: str, *, whole: bool) -> pillow.Raster:
    scale = SCALES.get(array.dtype.name)
    gray = array.ndim == 2
    if scale is None or not (gray or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or not array.size:
        raise ValueError(
            f"{name} must be an image (height, width[, 1, 3 or 4]) of uint8, uint16 or floats, got {describe(array)}"
        )
    pillow.require(array.shape[1], array.shape[0], name, whole=whole)
    return pillow.Raster(array[..., None] if gray else array, scale)


def _tensor(array: np.ndarray, white: float, name: str) -> Tensor:
    """Return pixels (height, width[, bands]) with an optional alpha channel over white, float32 (3, height, width)."""
    pixels = torch.from_numpy(np.array(array, np.float32)) / white
    if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"{name} has values outside [0, 1], the range of float images")
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    if pixels.shape[0] in (2, 4):
        pixels, alpha = pixels[:-1], pixels[-1:]
        pixels = pixels * alpha + (1 - alpha)
    return pixels.expand(3, -1, -1).contiguous()


class Canvas:
    """A picture of 8 bits that is filled part by part, and is gray elsewhere. It takes 4 bytes per pixel.

    Args:
        size: Height and width.
        path: Path whose suffix selects the format of the file.

    Raises:
        ValueError: If images are not written with this suffix, or it takes more memory than memory.py allows.
    """

    def __init__(self, size: tuple[int, int], path: Path) -> None:
        require_writable(path)
        each = pillow.FORMAT_BYTES.get(FORMATS[path.suffix.lower()]["format"], pillow.LOADED_BYTES)
        memory.require_values(size[0] * size[1], each, f"a picture of {size[1]} x {size[0]} pixels")
        self.path = path
        self._image = Image.new("RGB", (size[1], size[0]), (128, 128, 128))

    def paste(self, top: int, left: int, part: Tensor) -> None:
        """Fill a part with pixels, float32 (3, height, width) in [0, 1]."""
        self._image.paste(_eight_bit(part), (left, top))

    def save(self, file: BinaryIO) -> None:
        """Write the picture as an image file to an open file, or to a pipe."""
        if file.seekable():
            _save(self._image, file, self.path)
        else:
            buffer = io.BytesIO()
            _save(self._image, buffer, self.path)
            file.write(buffer.getbuffer())


def image_file(image: Tensor, path: Path) -> bytes:
    """Return an image as the bytes of an image file. The suffix of `path` selects the format."""
    require_writable(path)
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not image.is_floating_point():
        raise ValueError(f"{path}: an image must be floats (3, height, width), got {describe(image)}")
    require_range(image, 0, path)
    if between_levels(image) and _on_grid(image, 65535):
        notices.tell(str(path), "16-bit color is rounded to 8 bits")
    buffer = io.BytesIO()
    _save(_eight_bit(image), buffer, path)
    return buffer.getvalue()


def require_writable(path: Path) -> None:
    """Raise ValueError if images are not written with the suffix of a path."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: the suffix of a written image must be one of {' '.join(FORMATS)}")


def _eight_bit(image: Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())


def _save(image: Image.Image, file: BinaryIO, path: Path) -> None:
    try:
        image.save(file, **FORMATS[path.suffix.lower()])
    except (OSError, ValueError) as error:  # the format does not support such a long side
        raise ValueError(f"{path}: {image.width} x {image.height} pixels cannot be written: {error}") from error
