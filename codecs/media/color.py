"""Colors of other spaces → sRGB: ICC profiles, and the chunks cICP, gAMA and cHRM of PNG.

8-bit images with a profile are converted by Little CMS. It computes with 8 bits, so images of more bits are converted
here, as are images whose space is given by numbers. Colors outside sRGB are clipped.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
"""Linear sRGB → XYZ relative to D50, the white of ICC profiles."""
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D65 = (0.3127, 0.3290)
PRIMARIES = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""Code of ITU-T H.273 → chromaticities of red, green and blue: BT.709, BT.2020, P3."""
CACHED = 2**20
"""Longest profile that is kept after its use, in bytes."""

Curve = Callable[[np.ndarray], np.ndarray]
"""Values of a channel in [0, 1] → linear light."""


def encode(linear: np.ndarray) -> np.ndarray:
    """Return linear light in [0, 1] as values of sRGB (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def decode(values: np.ndarray) -> np.ndarray:
    """Return values of sRGB as linear light."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def power(exponent: float) -> Curve:
    return lambda x: np.maximum(x, 0) ** exponent


TRANSFERS: dict[int, Curve] = {13: decode, 1: decode, 6: decode, 14: decode, 15: decode, 4: power(2.2), 8: power(1.0)}
"""Code of ITU-T H.273 → curve. Screens show video (BT.709, BT.2020) by nearly the curve of sRGB."""


class Space(NamedTuple):
    """A color space: a curve for each channel, and linear RGB → XYZ relative to D50; None for gray."""

    curves: tuple[Curve, ...]
    matrix: np.ndarray | None

    def to_srgb(self, pixels: np.ndarray) -> np.ndarray:
        """Convert values in [0, 1] of shape (height, width, 1 or 3) to float32 sRGB of the same or 3 channels."""
        if self.matrix is None:
            return encode(self.curves[0](pixels).clip(0, 1)).astype(np.float32)
        if not np.isfinite(self.matrix).all():
            raise ValueError("it is damaged")
        channels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        linear = np.stack([curve(channels[..., k]) for k, curve in enumerate(self.curves)], -1)
        linear = linear @ (np.linalg.inv(SRGB) @ self.matrix).T
        return encode(linear.clip(0, 1)).astype(np.float32)

    def is_srgb(self) -> bool:
        """Whether no color changes by more than one of 256 levels."""
        levels = np.linspace(0, 1, 18, dtype=np.float32)
        grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(18, -1, 3)
        grid = grid[..., :1] if self.matrix is None else grid
        return bool(np.abs(self.to_srgb(grid) - grid).max() <= 1 / 255)


def from_chromaticities(primaries: tuple[float, ...], white: tuple[float, float], curve: Curve) -> Space:
    """Return the space of red, green and blue (x, y each), white (x, y) and a common curve."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in zip(primaries[::2], primaries[1::2], strict=True)]).T
    target = np.array([white[0] / white[1], 1, (1 - white[0] - white[1]) / white[1]])
    matrix = xyz * np.linalg.solve(xyz, target)
    cones = BRADFORD @ SRGB.sum(1) / (BRADFORD @ target)
    return Space((curve,) * 3, np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ matrix)


def from_codes(primaries: int, transfer: int) -> Space | None:
    """Return the space of two codes of ITU-T H.273; None for sRGB and for "unspecified".

    Raises:
        ValueError: The space is not known, such as those of high dynamic range.
    """
    if 2 in (primaries, transfer):
        return None
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        raise ValueError(f"primaries {primaries} with transfer {transfer}")
    space = from_chromaticities(PRIMARIES[primaries], D65, TRANSFERS[transfer])
    return None if space.is_srgb() else space


def from_png(chunks: Mapping[bytes, bytes]) -> Space | None:
    """Return the space of the chunks gAMA and cHRM; None for sRGB, also if they come near it as libpng sees it."""
    if b"sRGB" in chunks or b"gAMA" not in chunks:
        return None
    gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 1e5
    usual = not 0 < gamma < 10 or abs(gamma * 2.2 - 1) < 0.05
    white, primaries = D65, PRIMARIES[1]
    if b"cHRM" in chunks:
        numbers = [n / 1e5 for n in struct.unpack(">8I", chunks[b"cHRM"])]
        white, primaries = (numbers[0], numbers[1]), tuple(numbers[2:])
    space = from_chromaticities(primaries, white, decode if usual else power(1 / gamma))
    return None if space.is_srgb() else space


class Profile:
    """An ICC profile. Raises ValueError if it is damaged."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        try:
            self.handle = ImageCms.ImageCmsProfile(io.BytesIO(data))
            header: Any = self.handle.profile
            self.model: str = header.xcolor_space.strip()
            self.space = parse(data) if self.model in ("RGB", "GRAY") else None
            name = header.profile_description or ""
        except (OSError, struct.error, IndexError, TypeError, ImageCms.PyCMSError) as error:
            raise ValueError("it is damaged") from error
        self.is_srgb = self.space.is_srgb() if self.space else self.model == "RGB" and "srgb" in name.lower()

    def convert(self, image: Image.Image) -> Image.Image:
        """Convert an 8-bit image to sRGB of mode RGB or RGBA. Raises ValueError if the profile is for other colors."""
        kind = {"L": "GRAY", "LA": "GRAY", "La": "GRAY", "1": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}.get(
            image.mode, "RGB"
        )
        if self.model != kind and (self.model, kind) != ("RGB", "GRAY"):
            raise ValueError(f"it is for {self.model} colors, the image has {image.mode}")
        if kind in ("CMYK", "Lab"):
            return self.transform.apply(image)
        image = to_rgb(image)
        if self.is_srgb:
            return image
        if self.space and self.space.matrix is None:
            table = self.space.to_srgb(np.linspace(0, 1, 256).reshape(256, 1, 1)).ravel() * 255
            return image.point([*table.round().astype(int).tolist() * 3, *range(256)][: 256 * len(image.getbands())])
        color = self.transform.apply(image.convert("L" if self.model == "GRAY" else "RGB"))
        if image.mode == "RGBA":
            color.putalpha(image.getchannel("A"))
        return color

    @cached_property
    def transform(self) -> ImageCms.ImageCmsTransform:
        """The conversion to 8-bit sRGB by Little CMS."""
        mode = {"GRAY": "L", "Lab": "LAB"}.get(self.model, self.model)
        try:
            return ImageCms.buildTransform(self.handle, ImageCms.createProfile("sRGB"), mode, "RGB")
        except ImageCms.PyCMSError as error:
            raise ValueError(f"it does not convert {mode} colors") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in mode RGBA if it has transparent pixels, else RGB. A palette may have them, too."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    image = image.convert("LA") if image.mode == "La" else image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def parse(data: bytes) -> Space | None:
    """Return the space of an ICC profile of a matrix and curves, or of one gray curve; None if it has tables."""
    (count,) = struct.unpack_from(">I", data, 128)
    entries = [struct.unpack_from(">4sII", data, 132 + 12 * k) for k in range(min(count, 100))]
    tags = {name: data[at : at + size] for name, at, size in entries}
    if b"A2B0" in tags:
        return None
    if b"kTRC" in tags:
        return Space((_curve(tags[b"kTRC"]),), None)
    if not {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"} <= set(tags):
        return None
    columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    return Space(tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")), np.array(columns).T / 65536)


def _curve(tag: bytes) -> Curve:
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = struct.unpack_from(f">{count}H", tag, 12)
        if count < 2:
            return power(values[0] / 256 if count else 1.0)
        table = np.array(values) / 65535
        return lambda x: np.interp(x, np.linspace(0, 1, count), table)
    if tag[:4] != b"para":
        raise struct.error("curve of an unknown type")
    (kind,) = struct.unpack_from(">H", tag, 8)
    lengths = (1, 3, 4, 5, 7)
    g, a, b, c, d, e, f = (*(n / 65536 for n in struct.unpack_from(f">{lengths[kind]}i", tag, 12)), *[0.0] * 7)[:7]
    if kind == 0:
        return power(g)
    if kind in (1, 2):  # below the start of the power law is a constant, else a line
        d, e, f, c = -b / a, c, c, 0.0
    return lambda x: np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)


_cached = lru_cache(16)(Profile)


def profile(data: bytes) -> Profile:
    """Return an ICC profile. Raises ValueError if it is damaged."""
    return _cached(data) if len(data) <= CACHED else Profile(data)
