"""JPEG, WebP, AVIF, JPEG 2000 and PNG by Pillow. The tokens are the bytes of the file.

`image.save(file, **codec.options(setting))` of an 8-bit PIL image writes the same bytes. The points of a sweep are
evenly spaced in log-rate, measured on BSDS500.
"""

from __future__ import annotations

import io
import struct
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
from ..validate import require_integer

SPEED = 6
"""Default speed of AVIF's encoder."""


class PillowCodec(NativeCodec):
    """Codec whose codes are image files: 8-bit RGB image ↔ file."""

    spec = CodeSpec(Modality.IMAGE, (256,), (), channels=3, total=False)
    format: ClassVar[str]
    max_side: ClassVar[int] = 2**31 - 1

    @abstractmethod
    def options(self, setting: Any) -> dict[str, Any]:
        """Return the arguments of `PIL.Image.Image.save` for one setting, format included."""

    def load_plugin(self) -> None:
        """Add the format to Pillow, if a package besides Pillow has it."""

    @abstractmethod
    def is_whole(self, data: bytes) -> bool:
        """Return whether a file is complete. Decoders accept cut files and fill in the missing part."""

    def to_bytes(self, signal: Tensor, setting: Any) -> bytes:
        height, width = signal.shape[1:]
        if max(height, width) > self.max_side:
            raise ValueError(f"{self.name} needs sides of at most {self.max_side} pixels, got {width} x {height}")
        self.load_plugin()
        file, image = io.BytesIO(), Image.fromarray(media.to_uint8(signal).permute(1, 2, 0).numpy())
        try:
            image.save(file, **self.options(setting))
        except RuntimeError as error:  # of x265, for very wide and low pictures
            raise ValueError(f"{self.name} refuses {width} x {height} pixels: {errors.first_line(error)}") from error
        return file.getvalue()

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        height, width = size
        image = self._open(data)
        if image.size != (width, height) or image.mode != "RGB":
            raise ValueError(
                f"{self.name}: the file must hold {width} x {height} RGB pixels, the size of the codes; it holds "
                f"{image.width} x {image.height} {image.mode} pixels"
            )
        try:
            pixels = np.array(image)
        except Exception as error:  # Pillow raises a dozen types
            raise ValueError(f"{self.name}: the {self.format} file is damaged: {errors.first_line(error)}") from error
        if pixels.shape != (height, width, 3):  # what the header of HEIF says need not be true
            raise ValueError(f"{self.name}: the {self.format} file is damaged: it decodes to shape {pixels.shape}")
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

    def _open(self, data: bytes) -> Image.Image:
        """Read the header without decoding pixels."""
        self.load_plugin()
        if not self.is_whole(data):
            raise ValueError(f"{self.name} needs a complete {self.format} file, got {len(data)} other bytes")
        try:
            return media.pillow.open_image(io.BytesIO(data), [self.format])
        except Exception as error:
            raise ValueError(
                f"{self.name} needs a {self.format} file, got {len(data)} bytes: {errors.first_line(error)}"
            ) from error


@register("image/jpeg")
class Jpeg(PillowCodec):
    """Progressive JPEG with optimized Huffman tables and chroma at half resolution."""

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
    """AV1 still images. The bytes depend on the number of threads, so it is fixed.

    Args:
        speed: From 0, the slowest and best, to 10. On photographs, 0 takes 30 to 50 times as long as 6, and gives .1 to
            .7 dB more at −2 to +4 % of the bits.
    """

    format = "AVIF"
    max_side = 32_768
    settings = Settings("quality", "", 60, (0, 18, 33, 48, 64, 82, 96, 100), tuple(range(101)))
    variants = ({}, *({"speed": speed} for speed in range(11) if speed != SPEED))

    def __init__(self, speed: int = SPEED) -> None:
        super().__init__()
        require_integer(f"speed of {self.name}", speed, 0, 10)
        self.speed = speed

    @property
    def config(self) -> dict[str, Any]:
        """The speed, unless it is the default, so that equal codecs have equal fingerprints."""
        return {} if self.speed == SPEED else {"speed": self.speed}

    @config.setter
    def config(self, given: dict[str, Any]) -> None:
        pass  # the base class and `build` set it

    def options(self, setting: int) -> dict[str, Any]:
        return {"format": "AVIF", "quality": setting, "speed": self.speed, "max_threads": 2}

    def is_whole(self, data: bytes) -> bool:
        return is_whole_in_boxes(data)


def is_whole_in_boxes(data: bytes) -> bool:
    """Return whether the boxes of an ISO base media file (AVIF, HEIF) end where it ends."""
    position = 0
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if length < 8:
            return False
        position += length
    return 0 < position == len(data)


@register("image/jpeg2000")
class Jpeg2000(PillowCodec):
    """JPEG 2000 with the 9/7 wavelet, as a codestream without the 85 bytes of a .jp2 header.

    The setting is the rate in bits per pixel of a 24-bit image.
    """

    format = "JPEG2000"
    rates = tuple(round(2 ** (i / 8), 5) for i in range(-40, 17))
    settings = Settings("rate", "bit/pixel", 0.5, tuple(2.0**i for i in range(-5, 3)), rates)

    def options(self, setting: float) -> dict[str, Any]:
        rate = {"quality_mode": "rates", "quality_layers": [24 / setting]}
        return {"format": "JPEG2000", **rate, "irreversible": True, "no_jp2": True}

    def is_whole(self, data: bytes) -> bool:
        return data.startswith(b"\xff\x4f\xff\x51") and data.endswith(b"\xff\xd9")


@register("image/png")
class Png(PillowCodec):
    """PNG with 8 bits per channel: lossless for 8-bit images. 16-bit color is rounded, as by every codec of pixels."""

    format = "PNG"

    def options(self, setting: None) -> dict[str, Any]:
        return {"format": "PNG", "optimize": True}

    def is_whole(self, data: bytes) -> bool:
        return data.endswith(b"\0\0\0\0IEND\xae\x42\x60\x82")
