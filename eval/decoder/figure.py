"""Figure of a diffusion decoder: original, plain and diffusion in few steps, at falling numbers of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tokenloom.codecs import media, rate
from tokenloom.codecs.types import Modality

from ..drawing import enlarge, spectrograms
from .records import DecoderExhibits, SoundRow, SoundTable, SoundTile
from .references import ReferenceItem
from .setup import DecoderSetup
from .variants import FLOW_STEPS, decode, heading

ITEMS, SETTINGS = 3, 4
"""Largest numbers of items and settings."""
SIDE = 192
"""Largest side of an image tile in pixels. Small images are enlarged; large ones are cropped to their center."""
SPECTROGRAM = (288, 128)
GAP, MARGIN, HEAD = 6, 26, 30
INK, GRAY, PAPER = (29, 32, 37), (100, 106, 115), (255, 255, 255)


@dataclass
class FigureBlock:
    """Rows of one setting, one per item: variant → signal."""

    setting: Any
    title: str
    rows: list[dict[str, Tensor]]


def make(setup: DecoderSetup, test: Sequence[ReferenceItem], folder: Path) -> DecoderExhibits:
    """Write the figure as exhibits/decoder.png, and for audio a file for every signal."""
    (folder / "exhibits").mkdir(parents=True, exist_ok=True)
    items = test[:: max(1, len(test) // ITEMS)][:ITEMS]
    blocks = [_block(setup, items, setting) for setting in shown_settings(setup.settings)]
    sample_rate = setup.codec.spec.sample_rate
    draw(blocks, sample_rate).save(folder / "exhibits" / "decoder.png")
    exhibits = DecoderExhibits("exhibits/decoder.png", [])
    if setup.codec.spec.modality is Modality.AUDIO:
        for block in blocks:
            rows = [SoundRow(item.caption or item.key, _files(row, folder, block.setting, i, sample_rate))
                    for i, (item, row) in enumerate(zip(items, block.rows, strict=True))]  # fmt: skip
            exhibits.sounds.append(SoundTable(block.title, rows))
    return exhibits


def _block(setup: DecoderSetup, items: Sequence[ReferenceItem], setting: Any) -> FigureBlock:
    steps = [n for n in setup.steps if n < FLOW_STEPS]
    rows, tokens = [], set()
    for number, item in enumerate(items):
        codes = setup.codec.encode(item.signal[None], setting)
        decoded = decode(setup.decoder, codes, steps=steps, seed=setup.seed, first=number)
        rows.append({"original": item.signal, **{name: x[0] for name, x in decoded.items()}})
        tokens.add(int(rate.tokens(setup.codec.spec, codes)))
    if len(tokens) == 1:
        return FigureBlock(setting, f"{tokens.pop()} tokens", rows)
    return FigureBlock(setting, "" if setting is None else f"{setting} {setup.codec.settings.name}", rows)


def shown_settings(settings: list[Any]) -> list[Any]:
    """Return at most SETTINGS of the settings, from the highest to the lowest."""
    falling = settings[::-1]
    if len(falling) <= SETTINGS:
        return falling
    return [falling[round(i * (len(falling) - 1) / (SETTINGS - 1))] for i in range(SETTINGS)]


def draw(blocks: Sequence[FigureBlock], sample_rate: int | None = None) -> Image.Image:
    """Draw blocks of signals, with a column per variant."""
    columns = list(blocks[0].rows[0])
    tiles = [[_tiles(row, sample_rate) for row in block.rows] for block in blocks]
    every = [tile for block in tiles for row in block for tile in row]
    width, height = max(t.width for t in every), max(t.height for t in every)
    band = HEAD + len(blocks[0].rows) * (height + GAP)
    size = 2 * MARGIN + len(columns) * (width + GAP) - GAP, MARGIN + HEAD + len(blocks) * band
    page = Image.new("RGB", size, PAPER)
    pen, font, bold = ImageDraw.Draw(page), ImageFont.load_default(15), ImageFont.load_default(19)
    for i, name in enumerate(columns):
        pen.text((MARGIN + i * (width + GAP) + width / 2, MARGIN / 2), heading(name), GRAY, font, anchor="ma")
    for b, (block, rows) in enumerate(zip(blocks, tiles, strict=True)):
        top = MARGIN + HEAD / 2 + b * band
        pen.text((MARGIN, top), block.title, INK, bold)
        for r, row in enumerate(rows):
            for i, tile in enumerate(row):
                left = MARGIN + i * (width + GAP) + (width - tile.width) // 2
                page.paste(tile, (left, int(top + HEAD + r * (height + GAP) + (height - tile.height) // 2)))
    return page


def _tiles(row: dict[str, Tensor], sample_rate: int | None) -> list[Image.Image]:
    if sample_rate is None:
        return [image_tile(x) for x in row.values()]
    return spectrograms(list(row.values()), sample_rate, SPECTROGRAM)


def image_tile(x: Tensor) -> Image.Image:
    """Return the center of an image (3, height, width) in [0, 1], enlarged if it is small."""
    top, left = (max(0, (n - SIDE) // 2) for n in x.shape[1:])
    pixels = media.to_uint8(x[:, top : top + SIDE, left : left + SIDE]).permute(1, 2, 0)
    return enlarge(Image.fromarray(pixels.contiguous().numpy()), SIDE)


def _files(row: dict[str, Tensor], folder: Path, setting: Any, number: int, sample_rate: int | None) -> list[SoundTile]:
    tiles = []
    for name, x in row.items():
        path = f"exhibits/decoder-{setting}-{number}-{name.replace(' ', '-')}.flac"
        media.write(x, folder / path, sample_rate=sample_rate)
        tiles.append(SoundTile(heading(name), path))
    return tiles
