"""Pictures of any size ↔ files of tiles, in the memory of a few tiles."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .. import targets
from ..bitstream.tiles import Box, TileReader, TileWriter, joined, read_picture
from ..layers.spans import Reach
from ..layers.tracing import Traceable
from ..media.images import Picture
from ..types import BitstreamError, CodecInterface, Codes, Modality, Target

TILE = 1024
"""Side of a tile in pixels."""


def tile_obstacle(codec: CodecInterface) -> str | None:
    """Return the reason why a codec does not code pictures in tiles; None if it does."""
    if codec.spec.modality is not Modality.IMAGE:
        return "tiles are for pictures"
    if not (isinstance(codec, Traceable) and codec.invariant and codec.encoder_reach and codec.decoder_reach):
        return "its codes depend on the whole picture, or on its rounding"
    return None


def encode_tiles(codec: Any, picture: Picture, setting: Any = None, tile: int = TILE) -> Iterator[tuple[Box, Codes]]:
    """Encode a picture tile by tile. The codes are those of the whole.

    Args:
        codec: A codec of pictures with a bounded reach, such as image/fsq or image/ntc.
        picture: The picture.
        setting: As for `encode`, but not a `Target`.
        tile: Side of a tile in pixels. It is rounded down to whole strides.

    Yields:
        The rows and columns of each tile in raster order, and its codes.

    Raises:
        ValueError: If the codec does not code in tiles, or the picture is invalid.
    """
    _require(codec)
    if isinstance(setting, Target):
        raise ValueError(f"the setting of tiles must be a value, got {setting}; encode_picture meets targets")
    stride, whole = codec.spec.stride, Box(0, 0, *picture.size)
    for box in boxes(whole, [max(1, tile // step) * step for step in stride]):
        around = _grown(box, codec.encoder_reach, stride).within(whole)
        codes = codec.encode(picture.part(*around.ranges)[None], setting).to("cpu")
        yield box, joined(codec, [(around, codes)], box)


def encode_picture(codec: Any, picture: Picture, setting: Any = None) -> Codes:
    """Encode a picture tile by tile to the codes of the whole, in the memory of a few tiles and of the codes.

    Args:
        codec: See `encode_tiles`.
        picture: See `encode_tiles`.
        setting: As for `encode`, a `Target` included.

    Raises:
        ValueError: If the codec does not code in tiles, or the picture is invalid.
        TargetError: If no setting reaches the target.
    """
    if isinstance(setting, Target):
        return read_picture(codec, _meet(codec, picture, setting, lambda pixels: None, TILE)[1])
    return joined(codec, encode_tiles(codec, picture, setting), Box(0, 0, *picture.size))


def boxes(whole: Box, sides: list[int]) -> Iterator[Box]:
    """Yield the tiles of a picture in raster order, each with two sides, or up to the edge."""
    for top in range(whole.top, whole.bottom, sides[0]):
        for left in range(whole.left, whole.right, sides[1]):
            yield Box(top, left, top + sides[0], left + sides[1]).within(whole)


def compress_tiles(
    codec: Any, picture: Picture, file: BinaryIO, setting: Any = None,
    told: Callable[[int], object] = lambda pixels: None, tile: int = TILE,
) -> TileWriter:  # fmt: skip
    """Encode a picture tile by tile, and write it as a file of tiles. One tile becomes a plain container.

    Args:
        codec: See `encode_tiles`.
        picture: See `encode_tiles`.
        file: A binary file or pipe.
        setting: As for `encode`. A `Target` is met by the picture as a whole; each setting that is tried takes the time
            of an encoding.
        told: Called with the number of pixels of each tile that is done.
        tile: See `encode_tiles`.

    Returns:
        The writer, which states bytes and tokens.

    Raises:
        ValueError: If the codec does not code in tiles, or the picture is invalid.
        TargetError: If no setting reaches the target.
    """
    if isinstance(setting, Target):
        writer, data = _meet(codec, picture, setting, told, tile)
        file.write(data)
        return writer
    writer = TileWriter(file, codec, picture.size)
    for box, codes in encode_tiles(codec, picture, setting, tile):
        writer.write(box, codes)
        told(math.prod(box.size))
    writer.close()
    return writer


def _meet(
    codec: Any, picture: Picture, target: Target, told: Callable[[int], object], tile: int
) -> tuple[TileWriter, bytes]:
    """Return the file at the setting that meets a target, and its writer."""
    targets.require(codec, target)
    tried: dict[int, tuple[TileWriter, bytes]] = {}

    def written(index: int) -> tuple[TileWriter, bytes]:
        if index not in tried:
            file = io.BytesIO()
            writer = compress_tiles(codec, picture, file, codec.settings.values[index], told, tile)
            tried[index] = writer, file.getvalue()
        return tried[index]

    def fidelity(index: int) -> float:
        return psnr(codec, picture, written(index)[1])

    def bits_per_pixel(index: int) -> float:
        return 8 * len(written(index)[1]) / math.prod(picture.size)

    if target.name == "slope":
        every = range(len(codec.settings))
        curve = targets.Curve([written(i)[0].tokens for i in every], [fidelity(i) for i in every], None)
        return written(curve.steepest(target.value))
    return written(targets.find(codec, target, fidelity if target.name == "psnr" else bits_per_pixel))


def psnr(codec: Any, picture: Picture, data: bytes) -> float:
    """Return the PSNR in dB of a file of tiles against its picture, both rounded to 8 bits."""
    squared = 0.0
    for box, decoded in decompress_tiles(TileReader(data), codec):
        difference = (picture.part(*box.ranges) * 255).round() - (decoded.cpu() * 255).round()
        squared += difference.double().square().sum().item()
    return targets.decibel(squared / (3 * math.prod(picture.size)))


def decompress_tiles(reader: TileReader, codec: Any, crop: Box | None = None) -> Iterator[tuple[Box, Tensor]]:
    """Decode a file of tiles, or a container, tile by tile. What is lost is left out, and decodes as gray nearby.

    Args:
        reader: The file.
        codec: The codec that wrote it.
        crop: Rows and columns to decode; None for all. Only tiles near them are read.

    Yields:
        Rows and columns, and their pixels, float32 (3, height, width) in [0, 1].

    Raises:
        BitstreamError: If another codec wrote the file, or a tile is damaged and the reader does not salvage.
        ValueError: If the codec does not code in tiles.
    """
    _require(codec)
    reader.require(codec)
    stride, reach, whole = codec.spec.stride, codec.decoder_reach, Box(0, 0, *reader.size)
    shown = whole if crop is None else crop.within(whole)
    near = [tile for tile in reader.tiles if tile.within(_grown(shown, reach, stride))]
    gray = _gray(codec) if reader.salvage else None
    held: dict[Box, Codes] = {}
    for _, row in itertools.groupby(reader.tiles, lambda tile: tile.top):
        parts = {tile: part for tile in row if (part := tile.within(shown))}
        if not parts:
            continue
        tops, bottoms = zip(*((part.top, part.bottom) for part in parts.values()), strict=True)
        band = _grown(Box(min(tops), shown.left, max(bottoms), shown.right), reach, stride).within(whole)
        held = {tile: codes for tile, codes in held.items() if tile.bottom > band.top}
        while near and near[0].top < band.bottom:
            tile = near.pop(0)
            if tile.bottom > band.top and (codes := reader.codes(codec, tile)) is not None:
                held[tile] = Codes(codes.indices.int(), codes.sizes, None, codes.side)  # in half of the memory
        if not held:
            continue
        codes = joined(codec, held.items(), band, gray)
        for tile, part in parts.items():
            if tile not in held:
                continue
            around = _grown(part, reach, stride).within(whole)
            signal = _decoded(reader, codec, tile, joined(codec, [(band, codes)], around))
            if signal is not None:
                rows, columns = part.top - around.top, part.left - around.left
                yield part, signal[:, rows : rows + part.size[0], columns : columns + part.size[1]]


def _decoded(reader: TileReader, codec: Any, tile: Box, codes: Codes) -> Tensor | None:
    """Decode the codes around a tile; None if they do not decode, and the reader salvages."""
    try:
        return codec.decode(codes)[0]
    except ValueError as error:
        reader.lose(f"the tile at {tile}", BitstreamError(f"it does not decode: {error}"))
        return None


def _gray(codec: Any) -> Codes:
    """Return the codes of one position of a gray picture."""
    return codec.encode(torch.full((1, codec.spec.channels, *codec.spec.stride), 0.5)).to("cpu")


def _grown(box: Box, reach: Reach, stride: tuple[int, ...]) -> Box:
    """Return the smallest box of whole strides that holds a box and the positions that its own depend on."""
    ((above, below), (before, after)), (down, across) = reach, stride
    return Box(
        (box.top // down - above) * down, (box.left // across - before) * across,
        (-(-box.bottom // down) + below) * down, (-(-box.right // across) + after) * across,
    )  # fmt: skip


def _require(codec: CodecInterface) -> None:
    """Raise ValueError if a codec does not code in tiles."""
    if obstacle := tile_obstacle(codec):
        raise ValueError(f"{codec.name} does not code in tiles: {obstacle}")
