"""Figure of a diffusion decoder: original, plain and diffusion in few steps, at falling numbers of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tokenloom import files
from tokenloom.codecs import media, rate
from tokenloom.data import Item

from ..drawing import enlarge, spectrograms
from ..gallery.files import save, save_for_display, slug
from ..gallery.records import Exhibit, ExhibitTile
from ..trial import RATE_UNITS, in_unit
from .measures import measures_of
from .records import DecoderExhibits
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
    """Rows of one setting, one per item: variant → signal. `rates` are nominal, one per item."""

    title: str
    rows: list[dict[str, Tensor]]
    rates: list[float]


def make(setup: DecoderSetup, test: Sequence[ReferenceItem], folder: Path) -> DecoderExhibits:
    """Write the figure as exhibits/decoder.png, and a file for every signal."""
    (folder / "exhibits").mkdir(parents=True, exist_ok=True)
    items = test[:: max(1, len(test) // ITEMS)][:ITEMS]
    blocks = [_block(setup, items, setting) for setting in shown_settings(setup.settings)]
    with files.writing(folder / "exhibits" / "decoder.png") as part:
        draw(blocks, setup.codec.spec.sample_rate).save(part, "PNG")
    exhibits = [_exhibit(setup, item, number, blocks, folder) for number, item in enumerate(items)]
    return DecoderExhibits("exhibits/decoder.png", exhibits)


def _exhibit(
    setup: DecoderSetup, real: ReferenceItem, number: int, blocks: Sequence[FigureBlock], folder: Path
) -> Exhibit:
    """Write the variants of an item: exact files at the highest setting, files for display at the others."""
    modality, psnr = setup.codec.spec.modality, measures_of(setup.codec).psnr
    item = Item(real.key, modality, real.signal, setup.codec.spec.sample_rate, real.caption)
    exhibit = Exhibit(
        modality=str(modality), key=item.key, caption=item.caption, sample_rate=item.sample_rate,
        unit=RATE_UNITS[modality], rate=blocks[0].rates[number], rate_of=None,
        original=save(item.signal, item, folder, f"decoder-{number}-original"),
    )  # fmt: skip
    for place, block in enumerate(blocks):
        for variant, signal in list(block.rows[number].items())[1:]:
            value, name = psnr(item.signal, signal), f"decoder-{number}-{place}-{slug(variant)}"
            tile = ExhibitTile(codec=heading(variant), learned=True, rate=block.rates[number], setting=block.title,
                               figures={"psnr": value if math.isfinite(value) else "inf"})  # fmt: skip
            if place:
                tile.file, tile.display_psnr = save_for_display(signal, item, folder, name)
                exhibit.settings.append(tile)
            else:
                tile.file = save(signal, item, folder, name)
                exhibit.tiles.append(tile)
    return exhibit


def _block(setup: DecoderSetup, items: Sequence[ReferenceItem], setting: Any) -> FigureBlock:
    steps = [n for n in setup.steps if n < FLOW_STEPS]
    rows, rates, tokens = [], [], set()
    for number, item in enumerate(items):
        codes = setup.codec.encode(item.signal[None], setting)
        decoded = decode(setup.decoder, codes, steps=steps, seed=setup.seed, first=number)
        rows.append({"original": item.signal, **{name: x[0] for name, x in decoded.items()}})
        rates.append(in_unit(rate.nominal(setup.codec.spec, codes).item(), codes, setup.codec))
        tokens.add(int(rate.tokens(setup.codec.spec, codes)))
    if len(tokens) == 1:
        return FigureBlock(f"{tokens.pop()} tokens", rows, rates)
    return FigureBlock("" if setting is None else f"{setting} {setup.codec.settings.name}", rows, rates)


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
