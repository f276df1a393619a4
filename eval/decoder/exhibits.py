"""The figure that a person understands at once: original, plain, diffusion in few steps, at falling token counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tokenloom.codecs import media, rate
from tokenloom.codecs.types import Modality
from tokenloom.metrics import audio as sounds

from . import realism
from .realism import FLOW, PLAIN

if TYPE_CHECKING:
    from .bench import Bench

ROWS, BLOCKS = 3, 4
"""Items, and settings, that are shown at most."""
SIDE = 192
"""Pixels of a side of a tile: small pictures are enlarged in whole steps, of large ones the middle is shown."""
SPECTROGRAM = (288, 128)
GAP, MARGIN, HEAD = 6, 26, 30
INK, SOFT, PAPER = (29, 32, 37), (100, 106, 115), (255, 255, 255)


def make(bench: Bench, folder: Path) -> dict[str, Any]:
    """The figure as exhibits/decoder.png, and for sound every clip in it as a file beside; what the report shows."""
    (folder / "exhibits").mkdir(parents=True, exist_ok=True)
    step = max(1, len(bench.test) // ROWS)
    chosen = bench.test[::step][:ROWS]
    steps = [n for n in bench.steps if n < FLOW]
    blocks = []
    for setting in shown_settings(bench.settings):
        rows, tokens = [], set()
        for number, original in enumerate(chosen):
            codes = bench.codec.encode(original.signal[None], setting)
            made = realism.variants(bench.decoder, codes, steps=steps, seed=bench.seed, first=number)
            rows.append({"original": original.signal, **{name: x[0] for name, x in made.items()}})
            tokens.add(int(rate.tokens(bench.codec.spec, codes)))
        title = f"{tokens.pop()} tokens" if len(tokens) == 1 else f"{setting} {bench.codec.settings.name}"
        blocks.append({"setting": setting, "title": "" if title == "None " else title, "rows": rows})
    rate_hz = bench.codec.spec.sample_rate
    draw(blocks, rate_hz).save(folder / "exhibits" / "decoder.png")
    kept: dict[str, Any] = {"figure": "exhibits/decoder.png", "sounds": []}
    if bench.codec.spec.modality is Modality.AUDIO:
        for block in blocks:
            clips = [{"caption": o.caption or o.key, "tiles": _files(row, folder, block["setting"], i, rate_hz)}
                     for i, (o, row) in enumerate(zip(chosen, block["rows"], strict=True))]  # fmt: skip
            kept["sounds"].append({"title": block["title"], "clips": clips})
    return kept


def shown_settings(settings: list[Any]) -> list[Any]:
    """At most BLOCKS of them, from the highest to the lowest."""
    falling = settings[::-1]
    if len(falling) <= BLOCKS:
        return falling
    return [falling[round(i * (len(falling) - 1) / (BLOCKS - 1))] for i in range(BLOCKS)]


def heading(variant: str) -> str:
    """A variant as a column is headed."""
    if variant.startswith("diffusion "):
        n = int(variant.split()[1])
        return f"diffusion, {n} step{'s' if n > 1 else ''}"
    return "plain decoder" if variant == PLAIN else variant


def draw(blocks: list[dict[str, Any]], sample_rate: int | None = None) -> Image.Image:
    """Blocks of {title, rows}, rows of variant → signal, as one picture: a column a variant, a band a block."""
    columns = list(blocks[0]["rows"][0])
    tiles = [[_tiles(row, sample_rate) for row in block["rows"]] for block in blocks]
    every = [tile for block in tiles for row in block for tile in row]
    width, height = max(t.width for t in every), max(t.height for t in every)
    band = HEAD + len(blocks[0]["rows"]) * (height + GAP)
    size = 2 * MARGIN + len(columns) * (width + GAP) - GAP, MARGIN + HEAD + len(blocks) * band
    page = Image.new("RGB", size, PAPER)
    pen, font, bold = ImageDraw.Draw(page), ImageFont.load_default(15), ImageFont.load_default(19)
    for i, name in enumerate(columns):
        pen.text((MARGIN + i * (width + GAP) + width / 2, MARGIN / 2), heading(name), SOFT, font, anchor="ma")
    for b, (block, rows) in enumerate(zip(blocks, tiles, strict=True)):
        top = MARGIN + HEAD / 2 + b * band
        pen.text((MARGIN, top), block["title"], INK, bold)
        for r, row in enumerate(rows):
            for i, tile in enumerate(row):
                left = MARGIN + i * (width + GAP) + (width - tile.width) // 2
                page.paste(tile, (left, int(top + HEAD + r * (height + GAP) + (height - tile.height) // 2)))
    return page


def _tiles(row: dict[str, Tensor], sample_rate: int | None) -> list[Image.Image]:
    """The signals of one item as small pictures; spectrograms share the colours of the original's."""
    if sample_rate is None:
        return [picture(x) for x in row.values()]
    mels = [sounds.log_mel(x, sample_rate, 0.032, 64, 1e-6).mean(0) for x in row.values()]
    high = mels[0].max().item()
    return [spectrogram(mel, high) for mel in mels]


def picture(x: Tensor) -> Image.Image:
    """(3, height, width) in [0, 1] → its middle, each pixel a square where there is room."""
    top, left = (max(0, (n - SIDE) // 2) for n in x.shape[1:])
    pixels = media.to_uint8(x[:, top : top + SIDE, left : left + SIDE]).permute(1, 2, 0)
    image = Image.fromarray(pixels.contiguous().numpy())
    times = max(1, SIDE // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def spectrogram(mel: Tensor, high: float) -> Image.Image:
    """(bands, frames) natural log → 80 dB below `high` in colours, low frequencies at the bottom."""
    from matplotlib import colormaps

    level = ((mel - high + 9.2) / 9.2).clamp(0, 1).flip(0)
    pixels = torch.from_numpy(colormaps["magma"](level.numpy())[..., :3] * 255).byte()
    return Image.fromarray(pixels.numpy()).resize(SPECTROGRAM, Image.Resampling.BILINEAR)


def _files(row: dict[str, Tensor], folder: Path, setting: Any, number: int, sample_rate: int) -> list[dict[str, str]]:
    tiles = []
    for name, x in row.items():
        path = f"exhibits/decoder-{setting}-{number}-{name.replace(' ', '-')}.flac"
        media.write(x, folder / path, sample_rate=sample_rate)
        tiles.append({"name": heading(name), "file": path})
    return tiles
