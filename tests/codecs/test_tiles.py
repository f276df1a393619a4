"""Pictures tile by tile: the codes and pixels of the whole, files with random access and salvage, and the commands."""

from __future__ import annotations

import io
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli import refuse, succeed
from support.codecs import structured, tiny
from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs import BitstreamError, Box, Target, TargetError, TileReader, bitstream, media
from tokenloom.codecs.bitstream import TileWriter, records
from tokenloom.codecs.streams import tiles

SIZE = (150, 203)
LOCAL = ("image/fsq", "image/ntc", "image/rvq", "image/bsq", "image/vqgan")


def pictured(size: tuple[int, int]) -> media.Picture:
    pixels = structured(tiny("image/fsq"), size)[0]
    return media.Picture(media.to_uint8(pixels).permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def picture() -> media.Picture:
    return pictured(SIZE)


@pytest.fixture(scope="module")
def small() -> media.Picture:
    return pictured((30, 50))


def whole(picture: media.Picture) -> Tensor:
    return picture.part(*map(range, picture.size))[None]


def written(codec: codecs.Codec, picture: media.Picture, setting=None, tile: int = 64) -> bytes:
    file = io.BytesIO()
    writer = codecs.compress_tiles(codec, picture, file, setting, tile=tile)
    assert writer.bytes == len(file.getvalue())
    return file.getvalue()


def decoded(reader: TileReader, codec: codecs.Codec, crop: Box | None = None) -> Tensor:
    """Return what was decoded; NaN elsewhere."""
    shown = crop or Box(0, 0, *reader.size)
    out = torch.full((3, *shown.size), math.nan)
    for box, part in codecs.decompress_tiles(reader, codec, crop):
        assert part.shape == (3, *box.size) and box.within(shown) == box
        out[:, box.top - shown.top : box.bottom - shown.top, box.left - shown.left : box.right - shown.left] = part
    return out


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("tile", [16, 48, 100, 1000])
def test_tiles_have_the_codes_and_the_pixels_of_the_whole(name, tile, picture):
    codec, x = tiny(name), whole(picture)
    codes = codec.encode(x)
    data = written(codec, picture, tile=tile)
    assert bitstream.is_segmented(data) == (tile < 1000) and codecs.encode_picture(codec, picture) == codes
    assert bitstream.read(codec, [data]) == codes
    expected = codec.decode(codes)[0]
    torch.testing.assert_close(decoded(TileReader(data), codec), expected, rtol=0, atol=1e-6)
    assert codec.decompress([data, codec.compress(x[..., :20, :20])[0]]).shape == (2, 3, *SIZE)
    if tile == 1000:
        assert data == codec.compress(x)[0]


@pytest.mark.parametrize("name", ["image/fsq", "image/ntc"])
@pytest.mark.parametrize("crop", [Box(0, 0, 1, 1), Box(60, 63, 70, 130), Box(17, 3, 149, 202), Box(149, 202, 150, 203)])
def test_crops(name, crop, picture):
    codec, (rows, columns) = tiny(name), (slice(crop.top, crop.bottom), slice(crop.left, crop.right))
    expected = codec.decode(codec.encode(whole(picture)))[0, :, rows, columns]
    for tile in (16, 64, 1000):  # the last one is a plain container
        reader = TileReader(written(codec, picture, tile=tile))
        torch.testing.assert_close(decoded(reader, codec, crop), expected, rtol=0, atol=1e-6)


def test_only_the_tiles_near_a_crop_are_read(picture):
    codec = tiny("image/fsq")
    data, crop = bytearray(written(codec, picture, tile=16)), Box(70, 80, 75, 85)
    expected, read = decoded(TileReader(bytes(data)), codec, crop), []
    reader = TileReader(bytes(data))
    whole_codes = reader.codes
    reader.codes = lambda codec, tile: read.append(tile) or whole_codes(codec, tile)
    assert torch.equal(decoded(reader, codec, crop), expected)
    reach = 8 * (max(itertools.chain(*codec.decoder_reach)) + 3)
    near = Box(crop.top - reach, crop.left - reach, crop.bottom + reach, crop.right + reach)
    assert read and all(tile.within(near) for tile in read) and len(read) < len(reader.tiles)


@pytest.mark.parametrize("target", [Target(psnr=17.0), Target(psnr=15.0), Target(slope=1e-3)])
def test_targets_of_fidelity_choose_as_for_the_whole(target, small):
    codec = tiny("image/ntc")
    data = written(codec, small, target, tile=32)
    assert bitstream.is_segmented(data)
    assert bitstream.read(codec, [data]) == codec.encode(whole(small), target)
    assert codecs.encode_picture(codec, small, target) == codec.encode(whole(small), target)
    with pytest.raises(ValueError, match="the setting of tiles must be a value"):
        next(codecs.encode_tiles(codec, small, target))


def test_targets_of_rate(small):
    codec, picture, pixels = tiny("image/ntc"), small, math.prod(small.size)
    data = written(codec, picture, Target(bits_per_pixel=1.3))
    quality = int(bitstream.read(codec, [data]).side["quality"])
    assert 8 * len(data) / pixels <= 1.3 < 8 * len(written(codec, picture, quality + 1)) / pixels
    with pytest.raises(TargetError, match="out of reach"):
        written(codec, picture, Target(psnr=99.0))
    with pytest.raises(ValueError, match="no setting"):
        written(tiny("image/fsq"), picture, Target(psnr=20.0))
    with pytest.raises(ValueError, match="is for audio codecs"):
        written(codec, picture, Target(kbps=20.0))


def test_fidelity_is_that_of_the_whole(picture):
    codec = tiny("image/ntc")
    expected = codecs.targets.psnr(whole(picture), codec.decode(codec.encode(whole(picture), 20)))
    assert tiles.psnr(codec, picture, written(codec, picture, 20)) == pytest.approx(expected, abs=1e-4)


def test_obstacles():
    assert all(codecs.tile_obstacle(tiny(name)) is None for name in LOCAL)
    for name in ("image/jpeg", "image/taming", "image/flex", "audio/rvq", "text/bytes"):
        assert codecs.tile_obstacle(tiny(name))
    with pytest.raises(ValueError, match=r"^image/jpeg does not code in tiles: its codes depend on the whole picture"):
        next(codecs.encode_tiles(tiny("image/jpeg"), media.Picture(np.zeros((9, 9, 3), np.uint8))))


# -- damage ---------------------------------------------------------------------------------------


def test_a_damaged_tile_costs_that_tile(picture):
    codec = tiny("image/fsq")
    data = bytearray(written(codec, picture, tile=32))
    reader = TileReader(bytes(data))
    expected, lost = decoded(reader, codec), Box(64, 96, 96, 128)
    data[reader.tiles[lost].offset + 20] ^= 5
    with pytest.raises(BitstreamError, match=r"^the tile at row 64 is damaged: .* CRC-32 does not match$"):
        TileReader(bytes(data))
    with pytest.raises(BitstreamError, match="CRC-32"):
        codec.decompress([bytes(data)])
    reader = TileReader(bytes(data), salvage=True)
    found = decoded(reader, codec)
    assert len(reader.lost) == 1 and lost not in reader.tiles
    missing = found.isnan().all(0)
    assert missing[64:96, 96:128].all() and missing.sum() == 32 * 32
    reach = 8 * max(itertools.chain(*codec.decoder_reach))
    away = torch.ones(SIZE, dtype=torch.bool)
    away[max(0, 64 - reach) : 96 + reach, max(0, 96 - reach) : 128 + reach] = False
    assert away.any()
    torch.testing.assert_close(found[:, away], expected[:, away], rtol=0, atol=1e-6)


def test_a_cut_file_decodes_up_to_the_cut(picture):
    codec = tiny("image/fsq")
    data = written(codec, picture, tile=48)
    for length in range(0, len(data), 13):
        with pytest.raises(BitstreamError):
            TileReader(data[:length])
    offsets = [segment.offset + segment.length for segment in TileReader(data).segments]
    expected = decoded(TileReader(data), codec)
    for count, end in enumerate(offsets, 1):
        reader = TileReader(data[:end], salvage=True)
        assert len(reader.tiles) == count and reader.lost
        found = decoded(reader, codec)
        assert found.shape[1:] == (min(48 * -(-count // 5), 150), min(48 * count, 203))
        assert found[:, :24, :24].isfinite().all() and int(found[0].isfinite().sum()) == sum(
            math.prod(tile.size) for tile in reader.tiles
        )
    assert torch.equal(decoded(TileReader(data + b"junk", salvage=True), codec), expected)


def forged(codec: codecs.Codec, placed: list[tuple[int, int, bytes]], size: tuple[int, int]) -> bytes:
    """Return a file of containers at rows and columns."""
    file = io.BytesIO()
    writer = TileWriter(file, codec, size)
    writer._container = lambda data: data
    for row, column, data in placed:
        writer.segment(row * 2**24 + column, data)
    writer.close()
    return file.getvalue()


def test_forged_files_are_refused(picture):
    codec, other = tiny("image/fsq"), tiny("image/vqgan")
    x = structured(codec, (16, 16))
    (tile,), (small,) = codec.compress(x), codec.compress(x[..., :8])
    fine = forged(codec, [(0, 0, tile), (0, 16, tile)], (16, 32))
    assert codec.decompress([fine]).shape == (1, 3, 16, 32)
    for placed, size in (
        ([(0, 0, tile), (0, 16, tile)], (16, 33)),  # does not cover
        ([(0, 0, tile), (0, 16, small)], (16, 32)),
        ([(0, 0, tile), (0, 8, tile)], (16, 24)),  # overlaps
        ([(0, 0, tile), (16, 16, tile)], (32, 32)),
        ([(0, 8, tile)], (16, 24)),
    ):
        with pytest.raises(BitstreamError):
            TileReader(forged(codec, placed, size))
    askew = forged(codec, [(0, 0, codec.compress(x[..., :5])[0]), (0, 5, tile)], (16, 21))
    with pytest.raises(BitstreamError, match="must begin at a whole stride"):
        decoded(TileReader(askew), codec)
    mixed = forged(codec, [(0, 0, tile), (0, 16, other.compress(x)[0])], (16, 32))
    with pytest.raises(BitstreamError, match="container of the codec of the file"):
        TileReader(mixed)
    nested = forged(codec, [(0, 0, fine), (0, 32, tile)], (16, 48))
    with pytest.raises(BitstreamError, match="container of the codec of the file"):
        TileReader(nested)
    with pytest.raises(BitstreamError, match="was written by the codec"):
        decoded(TileReader(fine), other)
    with pytest.raises(ValueError, match="must be below 16777216 pixels"):
        TileWriter(io.BytesIO(), codec, (1, 2**24))
    ntc = tiny("image/ntc")
    two = [(0, 16 * i, ntc.compress(x, quality)[0]) for i, quality in enumerate((5, 6))]
    with pytest.raises(BitstreamError, match="the same side information"):
        decoded(TileReader(forged(ntc, two, (16, 32))), ntc)


def test_salvage_of_forged_places_allocates_what_is_there(picture):
    codec = tiny("image/fsq")
    (tile,) = codec.compress(structured(codec, (16, 16)))
    far = forged(codec, [(2**20, 2**20, tile)], (2**20 + 16, 2**20 + 16))
    reader = TileReader(far, salvage=True)
    parts = list(codecs.decompress_tiles(reader, codec))
    assert [part.shape for _, part in parts] == [(3, 16, 16)]
    with pytest.raises(BitstreamError, match="no segment of the file is whole"):
        TileReader(far[: records.HEAD] + far[records.HEAD + 9 :], salvage=True)
    with pytest.raises(ValueError, match="must take at most"):
        media.Canvas(reader.size, Path("far.png"))


# -- pictures -------------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """Return files of many kinds, 23 × 17 pixels."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (17, 23, 4), dtype=np.uint8), "RGBA")
    found = {mode: (rgba.convert(mode), {}) for mode in ("RGB", "L", "1", "RGBA", "LA")}
    found["P"] = rgba.convert("RGB").quantize(16), {"transparency": 3}
    found["16 bits"] = Image.fromarray(rng.integers(0, 2**16, (17, 23), dtype=np.uint16)), {}
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        found[f"turned {turn}"] = rgba.convert("RGB"), {"exif": exif}
    out = {}
    for name, (image, options) in found.items():
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        out[name] = file.getvalue()
    return out


@pytest.mark.parametrize("name", pictures())
def test_parts_are_those_of_the_whole(name):
    data = pictures()[name]
    picture, expected = media.Picture(data), codecs.read(data)
    assert (3, *picture.size) == expected.shape
    for rows, columns in ((range(3, 9), range(2, 16)), (range(0, 1), range(0, 1)), (range(10, 17), range(9, 17))):
        part = picture.part(rows, columns)
        assert torch.equal(part, expected[:, rows.start : rows.stop, columns.start : columns.stop])


def test_pictures_have_no_limit_of_their_own(monkeypatch):
    monkeypatch.setattr(media.pillow, "MAX_PIXELS", 300)
    data = pictures()["RGB"]
    with pytest.raises(ValueError, match="must have at most 300 pixels, got 23 x 17"):
        codecs.read(data)
    assert media.Picture(data).part(range(17), range(23)).shape == (3, 17, 23)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        media.Picture("none.png")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        media.Picture(b"\x89PNG nothing")


# -- commands -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Return a folder with a picture that is large, and a codec."""
    monkeypatch.setattr(media.images, "LARGE", 2**10)
    codecs.save(tiny("image/ntc"), tmp_path / "ntc")
    pixels = structured(tiny("image/ntc"), (40, 1100))[0]
    Image.fromarray(media.to_uint8(pixels).permute(1, 2, 0).numpy()).save(tmp_path / "wide.png")
    return tmp_path


def test_commands(files, capsys):
    codec, x = tiny("image/ntc"), codecs.read(files / "wide.png")[None]
    tokens, back = files / "wide.tlm", files / "back.png"
    told = succeed(capsys, "encode", str(files / "wide.png"), "-c", str(files / "ntc"), "--measure")
    expected = codec.decode(codec.encode(x))
    psnr = codecs.targets.psnr(x, expected)
    assert f"PSNR {psnr:.2f} dB, 1100 x 40 pixels by" in told
    data = tokens.read_bytes()
    assert len(TileReader(data).tiles) == 2 and bitstream.read(codec, [data]) == codec.encode(x)
    assert "1100 x 40 pixels from" in succeed(capsys, "decode", str(tokens), "-o", str(back), "-c", str(files / "ntc"))
    assert torch.equal(media.to_uint8(codecs.read(back)), media.to_uint8(expected[0]))
    decode = ("decode", str(tokens), "-o", str(back), "-c", str(files / "ntc"), "--force")
    assert "99 x 11 pixels from" in succeed(capsys, *decode, "--crop", "99x11+1000+7")
    assert torch.equal(codecs.read(back), codecs.read(_saved(expected[0][:, 7:18, 1000:1099])))
    line = refuse(capsys, *decode, "--crop", "101x40+1000+0")
    assert "--crop must be within" in line and "1100 x 40 pixels, got 101 x 40 pixels from row 0, column 1000" in line
    assert "must be WIDTHxHEIGHT+LEFT+TOP in pixels, got '9x0+0+0'" in refuse(capsys, *decode, "--crop", "9x0+0+0")
    assert "--start is for audio" in refuse(capsys, *decode, "--start", "1")
    low = succeed(capsys, "encode", str(files / "wide.png"), "-c", str(files / "ntc"), "--psnr", "18", "-f")
    reached = float(low.partition("PSNR ")[2].partition(" dB")[0])
    assert reached >= 18 and bitstream.read(codec, [tokens.read_bytes()]) == codec.encode(x, Target(psnr=18))


def test_a_part_goes_to_a_pipe(files):
    succeeded = run("encode", str(files / "wide.png"), "-c", str(files / "ntc"), "-o", "-")
    (files / "a.tlm").write_bytes(succeeded)
    png = run("decode", str(files / "a.tlm"), "-c", str(files / "ntc"), "-o", "-", "--crop", "20x9+1070+3")
    codec = codecs.load(files / "ntc")
    expected = codec.decode(codec.encode(codecs.read(files / "wide.png")[None]))[0, :, 3:12, 1070:1090]
    assert torch.equal(media.to_uint8(codecs.read(png)), media.to_uint8(expected))


def run(*argv: str) -> bytes:
    """Run a command in a process of its own, and return its standard output."""
    return subprocess.run([sys.executable, "-m", "tokenloom", *argv], stdout=subprocess.PIPE, check=True).stdout


def test_salvage_command(files, capsys):
    tokens, back = files / "wide.tlm", files / "back.png"
    succeed(capsys, "encode", str(files / "wide.png"), "-c", str(files / "ntc"))
    data = bytearray(tokens.read_bytes())
    data[TileReader(bytes(data)).segments[1].offset + 30] ^= 1
    tokens.write_bytes(data)
    decode = ("decode", str(tokens), "-o", str(back), "-c", str(files / "ntc"))
    assert refuse(capsys, *decode).endswith("--salvage decodes what is left") and not back.exists()
    succeed(capsys, *decode, "--salvage")
    found = codecs.read(back)
    assert found.shape == (3, 40, 1100) and (found[:, :, 1024:] == 128 / 255).all()
    assert not (found[:, :, :1024] == 128 / 255).all()


def test_crops_of_codecs_without_tiles(tmp_path, capsys):
    codec = codecs.load("image/png")
    x = media.to_uint8(structured(codec, (20, 30))).float() / 255
    (tmp_path / "a.tlm").write_bytes(codec.compress(x)[0])
    assert "7 x 5 pixels from" in succeed(capsys, "decode", str(tmp_path / "a.tlm"), "--crop", "7x5+3+2")
    assert torch.equal(codecs.read(tmp_path / "a.png"), x[0, :, 2:7, 3:10])
    assert "image/png does not code in tiles" in refuse(capsys, "decode", str(tmp_path / "a.tlm"), "--salvage", "-f")


def _saved(signal: Tensor) -> bytes:
    return media.to_bytes(signal, "a.png")
