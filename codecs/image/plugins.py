"""JPEG XL and HEIF by plugins of Pillow. The tokens are the bytes of the file."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenloom import lazy

from ..registry import register
from ..types import Settings
from .classical import PillowCodec, is_whole_in_boxes

pillow_jxl = lazy.load("pillow_jxl.JpegXLImagePlugin", "classical")
pillow_heif = lazy.load("pillow_heif", "classical")

SIGNATURE = b"\xff\x0a"
RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height of a JPEG XL codestream by the code in its header; the first one has its own width."""


@register("image/jpegxl")
class JpegXL(PillowCodec):
    """Lossy JPEG XL at libjxl's effort 9, as a codestream without a container."""

    format = "JXL"
    settings = Settings("quality", "", 75, (0, 11, 29, 61, 79, 89, 95, 99), tuple(range(100)))

    def load_plugin(self) -> None:
        pillow_jxl.JXLImageFile  # noqa: B018  # reading an attribute imports the module, which adds the format

    def options(self, setting: int) -> dict[str, Any]:
        return {"format": "JXL", "quality": setting, "effort": 9}

    def is_whole(self, data: bytes) -> bool:
        return data.startswith(SIGNATURE)  # the decoder itself refuses a cut codestream

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        if data.startswith(SIGNATURE) and (declared := _declared(data)) != size:
            raise ValueError(  # before the plugin opens the file, since it then decodes all pixels
                f"{self.name}: the file must declare 8-bit RGB pixels of height and width {size}, got {declared}"
            )
        return super().from_bytes(data, size)


@register("image/heif")
class Heif(PillowCodec):
    """HEVC still images by x265, with chroma at half resolution."""

    format = "HEIF"
    max_side = 16_384
    settings = Settings("quality", "", 50, (0, 11, 23, 35, 45, 57, 73, 95), tuple(range(96)))

    def load_plugin(self) -> None:
        pillow_heif.register_heif_opener()

    def options(self, setting: int) -> dict[str, Any]:
        return {"format": "HEIF", "quality": setting}

    def is_whole(self, data: bytes) -> bool:
        return is_whole_in_boxes(data)


def _declared(data: bytes) -> tuple[int, int] | None:
    """Return the height and width that a JPEG XL codestream declares (ISO 18181-1, D.2).

    None unless the bit follows that stands for the usual metadata: 8-bit RGB in sRGB, without further channels.
    """
    bits, position = int.from_bytes(data[2:16], "little"), 0

    def read(count: int) -> int:
        nonlocal position
        value = bits >> position & (1 << count) - 1
        position += count
        return value

    def side(small: int) -> int:
        return 8 * (read(5) + 1) if small else read((9, 13, 18, 30)[read(2)]) + 1

    small = read(1)
    height = side(small)
    over, under = RATIOS[read(3)]
    width = height * over // under or side(small)
    return (height, width) if read(1) else None
