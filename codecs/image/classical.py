"""JPEG, WebP, AVIF, JPEG 2000 and PNG through Pillow; the tokens are the bytes of the file.

`image.save(file, **codec.options(setting))` of an 8-bit PIL image writes the same bytes. Sweeps are spaced evenly in
log-rate from the lowest to the highest setting, measured on BSDS500.
"""

from __future__ import annotations

import io
import struct
import warnings
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tokenloom import errors

from .. import media
from ..native import NativeCodec
from ..registry import register
from ..types import CodeSpec, Modality, Settings


class PillowCodec(NativeCodec):
    """One 8-bit RGB image ↔ one file of a format that Pillow supports."""

    spec = CodeSpec(Modality.IMAGE, (256,), (), 3, None, total=False, ordered=False, causal=False)
    format: ClassVar[str]
    max_side: ClassVar[int] = 2**31 - 1

    @abstractmethod
    def options(self, setting: Any) -> dict[str, Any]:
        """Return the arguments of PIL.Image.Image.save, format included, for one setting."""

    @abstractmethod
    def is_whole(self, data: bytes) -> bool:
        """Return whether a file ends where its format says. Decoders would fill in what is cut off."""

    def to_bytes(self, signal: Tensor, setting: Any) -> bytes:
        height, width = signal.shape[1:]
        if max(height, width) > self.max_side:
            raise ValueError(f"{self.name} needs sides of at most {self.max_side} pixels, got {width} x {height}")
        file = io.BytesIO()
        Image.fromarray(media.to_uint8(signal).permute(1, 2, 0).numpy()).save(file, **self.options(setting))
        return file.getvalue()

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        height, width = size
        image = self._open(data)
        if image.size != (width, height) or image.mode != "RGB":
            raise ValueError(
                f"{self.name}: the file must hold {width} x {height} pixels of RGB as the codes say, it holds "
                f"{image.width} x {image.height} of {image.mode}"
            )
        try:
            pixels = np.array(image)
        except Exception as error:  # Pillow has a dozen types for damage
            raise ValueError(f"{self.name}: the {self.format} file is damaged: {errors.first_line(error)}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

    def _open(self, data: bytes) -> Image.Image:
        """Read the header; no pixel is decoded yet."""
        if not self.is_whole(data):
            raise ValueError(f"{self.name} needs a complete {self.format} file, got {len(data)} bytes that are not one")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked next
                return Image.open(io.BytesIO(data), formats=[self.format])
        except Exception as error:
            raise ValueError(
                f"{self.name} needs a {self.format} file, got {len(data)} bytes: {errors.first_line(error)}"
            ) from error


@register("image/jpeg")
class Jpeg(PillowCodec):
    """Progressive JPEG with optimized Huffman tables and chroma at half resolution, the baseline of the field."""

    format = "JPEG"
    max_side = 65_500
    settings = Settings("quality", "", 75, (1, 6, 13, 28, 61, 84, 94, 100), tuple(range(1, 101)))

    def options(self, setting: int) -> dict[str, Any]:
        return {"format": "JPEG", "quality": setting, "optimize": True, "progressive": True}

    def is_whole(self, data: bytes) -> bool:
        return data.endswith(b"\xff\xd9")


@register("image/webp")
class WebP(PillowCodec):
    """Lossy WebP with its most thorough search."""

    format = "WEBP"
    max_side = 16_383
    settings = Settings("quality", "", 75, (0, 3, 14, 34, 68, 85, 93, 100), tuple(range(101)))

    def options(self, setting: int) -> dict[str, Any]:
        return {"format": "WEBP", "quality": setting, "method": 6}

    def is_whole(self, data: bytes) -> bool:
        # The encoder writes RGB as a simple lossy file, whose size the decoder knows before it allocates a canvas.
        simple = data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 "
        return simple and len(data) == 8 + int.from_bytes(data[4:8], "little")


@register("image/avif")
class Avif(PillowCodec):
    """AV1 still images. The bytes depend on threads and speed, so both are fixed."""

    format = "AVIF"
    max_side = 32_768
    settings = Settings("quality", "", 60, (0, 18, 33, 48, 64, 82, 96, 100), tuple(range(101)))

    def options(self, setting: int) -> dict[str, Any]:
        return {"format": "AVIF", "quality": setting, "speed": 6, "max_threads": 2}

    def is_whole(self, data: bytes) -> bool:
        position = 0
        while position + 8 <= len(data):
            (length,) = struct.unpack_from(">I", data, position)
            if length < 8:
                return False
            position += length
        return 0 < position == len(data)


@register("image/jpeg2000")
class Jpeg2000(PillowCodec):
    """The 9/7 wavelet truncated to a rate, as a bare codestream (85 bytes less than a .jp2 file).

    The setting is the rate in bits per pixel of a 24-bit image.
    """

    format = "JPEG2000"
    settings = Settings(
        "rate",
        "bit/pixel",
        0.5,
        tuple(2.0**i for i in range(-5, 3)),
        tuple(round(2 ** (i / 8), 5) for i in range(-40, 17)),
    )

    def options(self, setting: float) -> dict[str, Any]:
        return {
            "format": "JPEG2000",
            "quality_mode": "rates",
            "quality_layers": [24 / setting],
            "irreversible": True,
            "no_jp2": True,
        }

    def is_whole(self, data: bytes) -> bool:
        return data.startswith(b"\xff\x4f\xff\x51") and data.endswith(b"\xff\xd9")


@register("image/png")
class Png(PillowCodec):
    """Lossless for 8-bit images."""

    format = "PNG"
    settings = Settings()

    def options(self, setting: None) -> dict[str, Any]:
        return {"format": "PNG", "optimize": True}

    def is_whole(self, data: bytes) -> bool:
        return data.endswith(b"\0\0\0\0IEND\xae\x42\x60\x82")
