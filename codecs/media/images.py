"""Image files, PIL images and arrays ↔ float32 (3, height, width) in [0, 1]."""

from __future__ import annotations

import io
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..types import MAX_PIXELS, Modality
from .sources import Source, describe, label, openable, refusing, require_range

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"}, ".jpg": {"format": "JPEG", "quality": 95}, ".jpeg": {"format": "JPEG", "quality": 95},
    ".webp": {"format": "WEBP", "lossless": True}, ".avif": {"format": "AVIF", "quality": 90},
    ".jp2": {"format": "JPEG2000"}, ".bmp": {"format": "BMP"}, ".tif": {"format": "TIFF"}, ".tiff": {"format": "TIFF"},
    ".ppm": {"format": "PPM"},
}  # fmt: skip
"""Suffix → options of Pillow for writing."""
IMAGE_SUFFIXES = (*FORMATS, ".gif", ".j2k")
SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
"""First bytes of image files."""
SCALES = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}
"""dtype of an array → value of white."""


def to_uint8(image: Tensor) -> Tensor:
    """Round values in [0, 1] to the nearest of 256 levels, uint8. All 8-bit rounding uses this function."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def read_image(source: Source) -> Tensor:
    """Return an image as float32 (3, height, width) in [0, 1]."""
    name = label(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    with refusing(name, Modality.IMAGE), warnings.catch_warnings(), ExitStack() as files:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
        if not isinstance(source, Image.Image):
            source = files.enter_context(Image.open(openable(source)))
        return _from_pil(source, name)


def _from_pil(image: Image.Image, name: str) -> Tensor:
    _check_size(image.width, image.height, "it")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: stereo photographs
        raise ValueError(f"it must be a still image, it is animated ({getattr(image, 'n_frames', 2)} frames)")
    return _from_array(_pixels(ImageOps.exif_transpose(image)), name)


def _pixels(image: Image.Image) -> np.ndarray:
    """Return uint8 (height, width, 3 or 4), or uint16 or floats (height, width) for images with more than 8 bits."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"its values must be in 0 to 65535, got {array.min()} to {array.max()}")
        return array.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _from_array(array: np.ndarray, name: str) -> Tensor:
    scale = SCALES.get(array.dtype.name)
    gray = array.ndim == 2
    if scale is None or not (gray or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or not array.size:
        raise ValueError(
            f"{name} must be an image (height, width[, 1, 3 or 4]) of uint8, uint16 or floats, got {describe(array)}"
        )
    _check_size(array.shape[1], array.shape[0], name)
    pixels = torch.from_numpy(np.array(array, np.float32)) / scale
    if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"{name} has values outside [0, 1], the range of float images")
    pixels = pixels[None] if gray else pixels.permute(2, 0, 1)
    if pixels.shape[0] == 4:
        pixels, alpha = pixels[:3], pixels[3:]
        pixels = pixels * alpha + (1 - alpha)
    return pixels.expand(3, -1, -1).contiguous()


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} must have at most {MAX_PIXELS} pixels, got {width} x {height}")


def image_file(image: Tensor, path: Path) -> bytes:
    """Return an image as the bytes of an image file. The suffix of `path` selects the format."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: the suffix of a written image must be one of {' '.join(FORMATS)}")
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not image.is_floating_point():
        raise ValueError(f"{path}: an image must be floats (3, height, width), got {describe(image)}")
    require_range(image, 0, path)
    pixels = Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())
    buffer = io.BytesIO()
    try:
        pixels.save(buffer, **FORMATS[path.suffix.lower()])
    except (OSError, ValueError) as error:  # the format does not support such a long side
        raise ValueError(f"{path}: {pixels.width} x {pixels.height} pixels cannot be written: {error}") from error
    return buffer.getvalue()
