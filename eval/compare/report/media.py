"""Images and sounds of the exhibits for the page, within a budget of bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality

from ...drawing import spectrograms
from ...metric import ProtocolDescription
from ...render import audio_uri, image_uri
from ..records import Exhibit, ExhibitTile
from ..results import Results
from .text import decimals

IMAGE_BYTES, SOUND_BYTES = 5_500_000, 2_500_000
CROP, SMALLEST_CROP = 400, 64
"""Largest and smallest side of a crop, in pixels."""
SECONDS = 5.0
"""Longest clip, in seconds."""


@dataclass
class TileView:
    """A tile of the page. `lines` are metrics; `uri` is None if the codec failed."""

    codec: str
    file: str | None
    rate: float | None = None
    note: str = ""
    lines: list[str] = field(default_factory=list)
    uri: str | None = None
    spectrogram: str | None = None


@dataclass
class ExhibitView:
    """An exhibit of the page. Width and height belong to the crops."""

    exhibit: Exhibit
    tiles: list[TileView]
    width: int = 0
    height: int = 0
    cropped: bool = False


def images(results: Results) -> list[ExhibitView]:
    """Return the image exhibits with lossless crops, the largest that fit the budget."""
    views, side = _views(results, Modality.IMAGE), CROP
    total = _inline_images(results, views, side)
    while total > IMAGE_BYTES and side > SMALLEST_CROP:
        side = max(SMALLEST_CROP, int(side * min(0.95, math.sqrt(IMAGE_BYTES / total))))
        total = _inline_images(results, views, side)
    return views


def clips(results: Results) -> list[ExhibitView]:
    """Return the audio exhibits as FLAC with spectrograms. Those beyond the budget are left out."""
    views, total = _views(results, Modality.AUDIO), 0
    for number, view in enumerate(views):
        rate, files = view.exhibit.sample_rate or 0, list(_files(results, view))
        waveforms = [media.read(path)[:, : int(SECONDS * rate)] for _, path in files]
        pictures = spectrograms(waveforms, rate, (480, 128))
        for (tile, _), waveform, picture in zip(files, waveforms, pictures, strict=True):
            tile.uri, tile.spectrogram = audio_uri(waveform, rate), image_uri(picture, quality=82)
            total += _size(tile.uri)
        if total > SOUND_BYTES and number:
            return views[:number]
    return views


def _views(results: Results, modality: Modality) -> list[ExhibitView]:
    """Return the exhibits of a modality without media. The first tile is the original."""
    protocol = next((p for p in results.protocols.values() if p.modality == modality), None)
    return [
        ExhibitView(
            exhibit, [TileView("original", exhibit.original), *(_tile(tile, protocol) for tile in exhibit.tiles)]
        )
        for exhibit in results.exhibits
        if exhibit.modality == modality
    ]


def _tile(tile: ExhibitTile, protocol: ProtocolDescription | None) -> TileView:
    lines = []
    for name, value in (tile.figures or {}).items():
        about = protocol.metrics[name]
        text = "∞" if value == "inf" else f"{value:.{min(decimals(name), 3)}f} {about.unit}"
        lines.append(f"{about.label} {text}".strip())
    return TileView(tile.codec, tile.file, tile.rate, tile.note, lines)


def _size(uri: str) -> int:
    """Return the approximate number of bytes in a base64 data URI."""
    return len(uri) * 3 // 4


def _files(results: Results, view: ExhibitView) -> Iterator[tuple[TileView, str]]:
    for tile in view.tiles:
        if tile.file is not None:
            yield tile, str(results.folder / tile.file)


def _inline_images(results: Results, views: list[ExhibitView], side: int) -> int:
    """Set the center crop of every image, and return the number of bytes."""
    total = 0
    for view in views:
        for tile, path in _files(results, view):
            with Image.open(path) as image:
                width, height = min(side, image.width), min(side, image.height)
                left, top = (image.width - width) // 2, (image.height - height) // 2
                crop = image.crop((left, top, left + width, top + height))
                view.cropped = crop.size != image.size
            tile.uri = image_uri(crop)
            total += _size(tile.uri)
            view.width, view.height = crop.size
    return total
