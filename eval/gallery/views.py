"""What a report shows of the exhibits: pictures and sounds with the stops of their sliders, within a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tokenloom.codecs import media
from tokenloom.codecs.media.pillow import FORMATS

from ..drawing import spectrograms
from ..metric import MetricDescription
from ..render import audio_uri, data_uri, image_uri
from .files import MEDIA_TYPES, SECONDS, SIDE, crop, encode, suffix
from .records import Exhibit, ExhibitTile

BUDGET = 12_500_000
"""Bytes of all media of a page, as text in base64."""
SMALLEST = 64
"""Smallest side of a crop in pixels."""


@dataclass
class Stop:
    """What a tile shows at one position of its slider. `lines` are metrics; `uri` is "" until it is embedded."""

    file: str
    rate: float | None = None
    unit: str = ""
    setting: str = ""
    lines: list[str] = field(default_factory=list)
    uri: str = ""
    spectrogram: str = ""

    @property
    def title(self) -> str:
        """Rate with its unit; "" for the original."""
        if self.rate is None:
            return ""
        return f"{self.rate:.3f} {self.unit}" if self.rate < 10 else f"{self.rate:.1f} {self.unit}"

    @property
    def size(self) -> int:
        return len(self.uri) + len(self.spectrogram)


@dataclass
class TileView:
    """A codec in an exhibit. `stops` rise in rate; `start` is the one at the equal rate. A failed codec has none."""

    codec: str
    note: str = ""
    stops: list[Stop] = field(default_factory=list)
    start: int = 0

    @property
    def first(self) -> Stop | None:
        """The stop that is shown first."""
        return self.stops[self.start] if self.stops else None


@dataclass
class ExhibitView:
    """An exhibit of the page. Width and height belong to the pictures. `left_out` counts settings without a stop."""

    exhibit: Exhibit
    tiles: list[TileView]
    width: int = 0
    height: int = 0
    cropped: bool = False
    display_psnr: float = math.inf
    """Smallest PSNR in dB of a picture on the page to the codec's output."""
    left_out: int = 0

    @property
    def title(self) -> str:
        return self.exhibit.caption or self.exhibit.key

    def shown(self) -> Iterator[Stop]:
        """Yield the stop of every tile that is shown first."""
        yield from (tile.first for tile in self.tiles if tile.first)


def views(
    folder: Path, exhibits: Sequence[Exhibit], metrics: Mapping[str, MetricDescription]
) -> tuple[list[ExhibitView], list[ExhibitView]]:
    """Return the views of the pictures and of the sounds, for exhibits whose files are in `folder`.

    Every exhibit has its original and its reconstructions at the equal rate. The settings get a stop in the order of
    the exhibits while the budget lasts. Sounds beyond their share of the budget are left out.
    """
    made = [_view(exhibit, metrics) for exhibit in exhibits]
    pictures = [view for view in made if view.exhibit.modality == "image"]
    sounds = [view for view in made if view.exhibit.modality == "audio"]
    share = BUDGET * (0.65 if sounds else 1.0)
    used = _embed_pictures(folder, pictures, share, metrics) if pictures else 0
    return pictures, _embed_sounds(folder, sounds, BUDGET - used, metrics)


def _view(exhibit: Exhibit, metrics: Mapping[str, MetricDescription]) -> ExhibitView:
    tiles = [TileView("original", stops=[Stop(exhibit.original)])]
    for tile in exhibit.tiles:
        stops = [] if tile.file is None else [_stop(tile, exhibit.unit, metrics)]
        tiles.append(TileView(tile.codec, tile.note, stops))
    return ExhibitView(exhibit, tiles)


def _stop(tile: ExhibitTile, unit: str, metrics: Mapping[str, MetricDescription]) -> Stop:
    lines = []
    for name, value in (tile.figures or {}).items():
        about = metrics[name]
        text = value if isinstance(value, str) else f"{value:.{2 if about.unit == 'dB' else 3}f} {about.unit}"
        lines.append(f"{about.label} {text.replace('inf', '∞')}".strip())
    return Stop(str(tile.file), tile.rate, unit, "" if tile.setting is None else tile.setting, lines)


# -- pictures --------------------------------------------------------------------------------------


def _embed_pictures(
    folder: Path, pictures: list[ExhibitView], budget: float, metrics: Mapping[str, MetricDescription]
) -> int:
    """Embed the pictures at the equal rate, lossless if they are small enough in all, then those of the settings.

    Returns:
        The number of bytes.
    """
    side = SIDE
    total = _embed_first(folder, pictures, side, exact=True)
    if total > budget / 3:
        total = _embed_first(folder, pictures, side)
    while total > budget and side > SMALLEST:
        side = max(SMALLEST, int(side * min(0.95, math.sqrt(budget / total))))
        total = _embed_first(folder, pictures, side)
    for view in pictures:
        for stop, tile, target in _settings(view, metrics):
            data = (folder / stop.file).read_bytes()
            stop.uri = data_uri(data, MEDIA_TYPES[Path(stop.file).suffix])
            fits = total + stop.size <= budget and side == SIDE
            total += _add(view, target, stop, fits)
            if fits and tile.display_psnr is not None:
                view.display_psnr = min(view.display_psnr, tile.display_psnr)
    return total


def _embed_first(folder: Path, pictures: list[ExhibitView], side: int, exact: bool = False) -> int:
    """Embed the center of the pictures that are shown first, and return the number of bytes."""
    total = 0
    for view in pictures:
        view.display_psnr = math.inf
        for stop in view.shown():
            with Image.open(folder / stop.file, formats=FORMATS) as image:
                part = crop(image, side)
                view.cropped = part.size != image.size
            data, psnr = encode(part, exact)
            stop.uri = data_uri(data, MEDIA_TYPES[suffix(data)])
            view.display_psnr = min(view.display_psnr, math.inf if psnr is None else psnr)
            view.width, view.height = part.size
            total += stop.size
    return total


def _settings(
    view: ExhibitView, metrics: Mapping[str, MetricDescription]
) -> Iterator[tuple[Stop, ExhibitTile, TileView]]:
    """Yield the stop of each setting with its record and the tile that it belongs to, without repeated rates."""
    equals = {t.codec: t for t in view.exhibit.tiles}  # empty if the codec that sets the rate failed
    for record in (r for r in view.exhibit.settings if r.codec in equals):
        tile, equal = next(tile for tile in view.tiles if tile.codec == record.codec), equals[record.codec]
        if tile.stops and (record.rate, record.bytes) != (equal.rate, equal.bytes):
            yield _stop(record, view.exhibit.unit, metrics), record, tile


def _add(view: ExhibitView, tile: TileView, stop: Stop, fits: bool) -> int:
    """Add a stop to a tile in the order of the rate, if it fits. Returns the number of bytes."""
    if not fits:
        view.left_out += 1
        return 0
    shown = tile.first
    tile.stops = sorted([*tile.stops, stop], key=lambda s: s.rate or 0.0)
    tile.start = next(i for i, s in enumerate(tile.stops) if s is shown)
    return stop.size


# -- sounds ----------------------------------------------------------------------------------------


def _embed_sounds(
    folder: Path, sounds: list[ExhibitView], budget: float, metrics: Mapping[str, MetricDescription]
) -> list[ExhibitView]:
    """Embed the sounds at the equal rate as FLAC with spectrograms, then those of the settings."""
    total = 0
    for number, view in enumerate(sounds):
        total += _embed_clips(folder, view, [])
        if total > budget and number:
            sounds = sounds[:number]
            break
    for view in sounds:
        found = list(_settings(view, metrics))
        _embed_clips(folder, view, [stop for stop, _, _ in found])
        for stop, _, tile in found:
            total += _add(view, tile, stop, total + stop.size <= budget)
    return sounds


def _embed_clips(folder: Path, view: ExhibitView, settings: list[Stop]) -> int:
    """Embed the clips that are shown first, or those of settings. All spectrograms have the scale of the original."""
    rate = view.exhibit.sample_rate or 0
    stops = settings or list(view.shown())
    original = media.read(folder / view.exhibit.original)[:, : int(SECONDS * rate)]
    waveforms = [media.read(folder / stop.file)[:, : int(SECONDS * rate)] for stop in stops]
    pictures = spectrograms([original, *waveforms], rate, (480, 128))[1:]
    for stop, waveform, picture in zip(stops, waveforms, pictures, strict=True):
        stop.uri, stop.spectrogram = audio_uri(waveform, rate), image_uri(picture, quality=82)
    return sum(stop.size for stop in stops)
