"""Images and sounds of the exhibits, inlined within a budget of bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality

from ...drawing import spectrograms
from ...metric import ProtocolDescription
from ...render import audio_uri, data_uri, image_data, image_uri
from ..records import Exhibit, ExhibitTile
from ..results import Results
from .text import decimals

IMAGE_BYTES, SOUND_BYTES = 5_500_000, 2_500_000
CROP, SMALLEST_CROP = 400, 64
"""Sides in pixels."""
SECONDS = 5.0
"""Longest clip."""


@dataclass
class TileView:
    """A tile as the page shows it; `lines` are metrics, `uri` is None if the codec failed."""

    codec: str
    file: str | None
    rate: float | None = None
    note: str = ""
    lines: list[str] = field(default_factory=list)
    uri: str | None = None
    spectrogram: str | None = None


@dataclass
class ExhibitView:
    """An exhibit as the page shows it; width and height are those of the crop."""

    exhibit: Exhibit
    tiles: list[TileView]
    width: int = 0
    height: int = 0
    cropped: bool = False


def images(results: Results) -> list[ExhibitView]:
    """Return the image exhibits with lossless crops, as large as the budget allows."""
    views, side = _views(results, Modality.IMAGE), CROP
    total = _inline_images(results, views, side)
    while total > IMAGE_BYTES and side > SMALLEST_CROP:
        side = max(SMALLEST_CROP, int(side * min(0.95, math.sqrt(IMAGE_BYTES / total))))
        total = _inline_images(results, views, side)
    return views


def clips(results: Results) -> list[ExhibitView]:
    """Return the audio exhibits as FLAC with spectrograms. The last ones are left out if they exceed the budget."""
    views, total = _views(results, Modality.AUDIO), 0
    for number, view in enumerate(views):
        rate, files = view.exhibit.sample_rate or 0, list(_files(results, view))
        waveforms = [media.read(path)[:, : int(SECONDS * rate)] for _, path in files]
        pictures = spectrograms(waveforms, rate, (480, 128))
        for (tile, _), waveform, picture in zip(files, waveforms, pictures, strict=True):
            tile.uri, tile.spectrogram = audio_uri(waveform, rate), image_uri(picture, quality=82)
            total += len(tile.uri) * 3 // 4  # base64
        if total > SOUND_BYTES and number:
            return views[:number]
    return views


def _views(results: Results, modality: Modality) -> list[ExhibitView]:
    """Return the exhibits of a modality without their media, the original first."""
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


def _files(results: Results, view: ExhibitView) -> Iterator[tuple[TileView, str]]:
    for tile in view.tiles:
        if tile.file is not None:
            yield tile, str(results.folder / tile.file)


def _inline_images(results: Results, views: list[ExhibitView], side: int) -> int:
    """Inline the center of every image, and return the number of bytes."""
    total = 0
    for view in views:
        for tile, path in _files(results, view):
            with Image.open(path) as image:
                width, height = min(side, image.width), min(side, image.height)
                left, top = (image.width - width) // 2, (image.height - height) // 2
                crop = image.crop((left, top, left + width, top + height))
                view.cropped = crop.size != image.size
            data = image_data(crop)
            total += len(data)
            tile.uri = data_uri(data, "image/webp")
            view.width, view.height = crop.size
    return total
