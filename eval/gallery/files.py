"""Files of exhibits: exact ones, and smaller ones for a report."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features
from torch import Tensor

from tokenloom import files
from tokenloom.codecs import media
from tokenloom.codecs.types import Modality
from tokenloom.data import Item

SIDE = 768
"""Largest side of a picture in a report, in pixels. Larger ones are cropped to their center."""
SECONDS = 5.0
"""Longest clip in a report, in seconds."""
EXACT_PIXELS = 128 * 128
"""Pictures up to this size are always lossless."""
LOSSLESS = {"format": "WEBP", "lossless": True, "method": 0, "quality": 20}
AVIF = {"format": "AVIF", "quality": 92, "subsampling": "4:4:4", "speed": 10}
LOSSY = AVIF if features.check("avif") else {"format": "WEBP", "quality": 95}
MEDIA_TYPES = {".webp": "image/webp", ".avif": "image/avif", ".flac": "audio/flac"}


def slug(name: str) -> str:
    """Return a name without characters that a file name must not have. Two names can have the same slug."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-48:] or "item"


def save(signal: Tensor, item: Item, folder: Path, name: str) -> str:
    """Write a signal as PNG or 16-bit FLAC to folder/exhibits, and return the path relative to `folder`."""
    path = f"exhibits/{name}.{'png' if item.modality is Modality.IMAGE else 'flac'}"
    media.write(signal, folder / path, sample_rate=item.sample_rate)
    return path


def save_for_display(signal: Tensor, item: Item, folder: Path, name: str) -> tuple[str, float | None]:
    """Write what a report shows of a signal to folder/exhibits.

    Returns:
        The path relative to `folder`, and the PSNR of a picture in the file to the signal; None for an exact file.
    """
    if item.modality is not Modality.IMAGE:
        return save(signal[:, : int(SECONDS * (item.sample_rate or 0))], item, folder, name), None
    data, psnr = encode(crop(to_image(signal)))
    path = f"exhibits/{name}{suffix(data)}"
    files.write(folder / path, data)
    return path, psnr


def to_image(signal: Tensor) -> Image.Image:
    """Return an image (3, height, width) in [0, 1], rounded to 8 bits."""
    return Image.fromarray(media.to_uint8(signal).permute(1, 2, 0).contiguous().numpy())


def crop(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Return the center of an image, with sides of at most `side` pixels."""
    width, height = min(side, image.width), min(side, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def encode(image: Image.Image, exact: bool = False) -> tuple[bytes, float | None]:
    """Return the file of an image and its PSNR in dB: lossless if `exact` or the image is small, else close to it."""
    exact = exact or image.width * image.height <= EXACT_PIXELS
    buffer = io.BytesIO()
    options: dict[str, Any] = LOSSLESS if exact else LOSSY
    image.convert("RGB").save(buffer, **options)
    if exact:
        return buffer.getvalue(), None
    with Image.open(buffer, formats=[options["format"]]) as shown:
        error = np.asarray(shown.convert("RGB"), float) - np.asarray(image.convert("RGB"), float)
    mean = np.square(error).mean()
    return buffer.getvalue(), float(10 * np.log10(255**2 / mean)) if mean else None


def suffix(data: bytes) -> str:
    """Return the suffix of a file that `encode` made."""
    return ".webp" if data[:4] == b"RIFF" else ".avif"
