"""Image files of strangers: 16 bits, color profiles, damaged or very long metadata, every mode, several threads."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from tokenloom.codecs import media
from tokenloom.codecs.media import depth

RNG = np.random.default_rng(0)
EIGHT = RNG.integers(0, 256, (24, 36, 3), dtype=np.uint8)
SIXTEEN = RNG.integers(0, 65536, (13, 17, 4), dtype=np.uint16)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def save(pixels, form="PNG", **options):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, form, **options)
    return file.getvalue()


def chunk(kind, data, check=None):
    check = zlib.crc32(kind + data) if check is None else check
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(pixels, color, *extra, passes=((0, 0, 1, 1),)):
    """Write a 16-bit PNG of a color type, interlaced if `passes` has several."""
    height, width = pixels.shape[:2]
    parts = [pixels[y::down, x::right] for y, x, down, right in passes]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part)
    head = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, len(passes) > 1)
    data = chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def tiff(pixels, bits, photometric, *, order="<", planes=1, extra=()):
    """Write an uncompressed TIFF of one strip for each plane. `pixels` are bytes in the order of the file."""
    height, width, bands = pixels[1]
    data, base = pixels[0], 8
    entries = [(256, 3, [width]), (257, 3, [height]), (258, 3, [bits] * bands), (259, 3, [1]), (262, 3, [photometric]),
               (273, 4, []), (277, 3, [bands]), (278, 3, [height]), (279, 4, []), (284, 3, [planes])]  # fmt: skip
    entries += [(338, 3, list(extra))] if extra else []
    strips = bands if planes == 2 else 1
    values = {273: [base + k * len(data) // strips for k in range(strips)], 279: [len(data) // strips] * strips}
    ifd, tail = b"", b""
    at = base + len(data) + len(data) % 2
    tail_at = at + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        value = values.get(tag, value)
        packed = struct.pack(f"{order}{len(value)}{'H' if kind == 3 else 'I'}", *value)
        if len(packed) > 4:
            packed, tail = struct.pack(order + "I", tail_at + len(tail)), tail + packed
        ifd += struct.pack(order + "HHI", tag, kind, len(value)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head + data + bytes(len(data) % 2) + struct.pack(order + "H", len(entries)) + ifd + bytes(4) + tail


def read(data):
    """Return an image as float64 (height, width, 3), and the warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return media.read(data, "image").double().permute(1, 2, 0).numpy(), [str(one.message) for one in told]


def over_white(pixels, white):
    color, alpha = np.split(pixels / white, [-1], -1)
    return color * alpha + 1 - alpha


def planes16(order):
    return SIXTEEN[..., :3].transpose(2, 0, 1).astype(order + "u2").tobytes(), (13, 17, 3)


KEYED = np.where(np.arange(17)[:, None] == 3, np.uint16(777), SIXTEEN[..., :3])
LEVELS = RNG.integers(0, 1024, (5, 7, 3))
DEEP = {
    "PNG gray": (lambda: png(SIXTEEN[..., :1], 0), SIXTEEN[..., :1] / 65535),
    "PNG gray and alpha": (lambda: png(SIXTEEN[..., :2], 4), over_white(SIXTEEN[..., :2], 65535)),
    "PNG RGB": (lambda: png(SIXTEEN[..., :3], 2), SIXTEEN[..., :3] / 65535),
    "PNG RGBA": (lambda: png(SIXTEEN, 6), over_white(SIXTEEN, 65535)),
    "PNG RGBA interlaced": (lambda: png(SIXTEEN, 6, passes=ADAM7), over_white(SIXTEEN, 65535)),
    "PNG with a transparent color": (
        lambda: png(KEYED, 2, chunk(b"tRNS", struct.pack(">3H", 777, 777, 777))),
        np.where(KEYED == 777, 1, KEYED / 65535),
    ),
    "TIFF, small end first": (
        lambda: tiff((SIXTEEN[..., :3].astype("<u2").tobytes(), (13, 17, 3)), 16, 2), SIXTEEN[..., :3] / 65535),
    "TIFF, big end first": (
        lambda: tiff((SIXTEEN[..., :3].astype(">u2").tobytes(), (13, 17, 3)), 16, 2, order=">"),
        SIXTEEN[..., :3] / 65535,
    ),
    "TIFF of planes": (lambda: tiff(planes16("<"), 16, 2, planes=2), SIXTEEN[..., :3] / 65535),
    "TIFF of planes, big end first": (
        lambda: tiff(planes16(">"), 16, 2, planes=2, order=">"), SIXTEEN[..., :3] / 65535),
    "TIFF RGBA": (
        lambda: tiff((SIXTEEN.astype("<u2").tobytes(), (13, 17, 4)), 16, 2, extra=[2]), over_white(SIXTEEN, 65535)),
    "TIFF, white is 0": (
        lambda: tiff((SIXTEEN[..., 0].astype("<u2").tobytes(), (13, 17, 1)), 16, 0), 1 - SIXTEEN[..., :1] / 65535),
    "TIFF of 12 bits": (
        lambda: tiff((bytes.fromhex("fff000800001"), (1, 4, 1)), 12, 1), np.array([[[4095], [0], [2048], [1]]]) / 4095),
    "PPM": (lambda: b"P6 7 5 1023\n" + LEVELS.astype(">u2").tobytes(), LEVELS / 1023),
    "PGM": (lambda: b"P5\n# a comment\n7 5\n1023\n" + LEVELS[..., 0].astype(">u2").tobytes(), LEVELS[..., :1] / 1023),
    "plain PPM": (lambda: b"P3 7 5\n1023\n#!\n" + " ".join(map(str, LEVELS.ravel())).encode(), LEVELS / 1023),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEEP)
def test_color_of_more_than_8_bits_is_exact(kind, tmp_path):
    make, right = DEEP[kind]
    data = make()
    found, told = read(data)
    assert not told
    np.testing.assert_allclose(found, np.broadcast_to(right, found.shape), rtol=0, atol=0.01 / 65535)
    if kind.startswith("PNG"):
        (tmp_path / "a.png").write_bytes(data)
        assert (read(tmp_path / "a.png")[0] == found).all()
        with Image.open(tmp_path / "a.png") as opened:  # Pillow keeps all bits until the pixels are loaded
            assert (read(opened)[0] == found).all()


def test_bits_that_are_lost_are_told():
    file = save(EIGHT, "AVIF")
    at = file.index(b"av1C") + 6
    with Image.open(io.BytesIO(file)) as image:
        assert depth.lost(image, file) == ""
        assert depth.lost(image, file[:at] + bytes([file[at] | 0x40]) + file[at + 1 :]) == "10-bit AVIF"
    cmyk = tiff((SIXTEEN.astype("<u2").tobytes(), (13, 17, 4)), 16, 5)
    assert read(cmyk)[1] == ["the bytes: more than 8 bits per channel are read as 8 (16-bit CMYK)"]
    assert depth.jpeg2000_bits(save(SIXTEEN[..., 0], "JPEG2000")) == 16


def test_writing_16_bits_says_that_it_rounds(tmp_path):
    with pytest.warns(UserWarning, match=r"a\.png: 16-bit color is rounded to 8 bits"):
        media.write(media.read(png(SIXTEEN[..., :3], 2)), tmp_path / "a.png")
    assert np.abs(read(tmp_path / "a.png")[0] - SIXTEEN[..., :3] / 65535).max() <= 0.5 / 255 + 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        media.write(torch.rand(3, 8, 8), tmp_path / "b.png")
        media.write(media.read(EIGHT), tmp_path / "c.png")


# -- color ------------------------------------------------------------------------------------


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def gamma(exponent):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256)) + b"\0\0"


PARAMETRIC = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""The curve of sRGB."""


def profile(model, tags, name="a space"):
    """Write an ICC profile of version 2."""
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + bytes(79)
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0-\0\0\0", b"wtpt": white, **tags}
    at, table, body = 132 + 12 * len(tags), b"", b""
    for key, value in tags.items():
        table += key + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    device, space = (b"prtr", b"Lab ") if model == b"CMYK" else (b"mntr", b"XYZ ")
    head = struct.pack(">I", at + len(body)) + b"\0\0\0\0\2\x40\0\0" + device + model + space
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def matrix_profile(columns, curve, name="a space"):
    tags = {bytes([c]) + b"XYZ": b"XYZ \0\0\0\0" + fixed(*xyz) for c, xyz in zip(b"rgb", columns, strict=True)}
    return profile(b"RGB ", tags | {bytes([c]) + b"TRC": curve for c in b"rgb"}, name)


P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = matrix_profile(P3, PARAMETRIC)
GRAY = profile(b"GRAY", {b"kTRC": gamma(1.8)})


def cmyk_profile():
    """Two points for each ink: light without black, dark with it."""
    lab = b"".join(bytes([0 if i & 1 else 255 - 20 * bin(i).count("1"), 128, 128]) for i in range(16))
    line = bytes(range(256))
    table = b"mft1\0\0\0\0\4\3\2\0" + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + line * 4 + lab + line * 3
    return profile(b"CMYK", {b"A2B0": table})


def by_little_cms(image, icc):
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_profiles_are_converted_to_srgb(form):
    icc = matrix_profile(P3, gamma(2.2))
    found, told = read(save(EIGHT, form, icc_profile=icc, **({"lossless": True} if form == "WEBP" else {})))
    assert not told and np.abs(found * 255 - by_little_cms(Image.fromarray(EIGHT), icc)).max() < 1.01
    assert np.abs(found * 255 - EIGHT).max() > 20  # it is far from the values of the file
    deep = EIGHT.astype(np.uint16) * 257
    ours, _ = read(png(deep, 2, chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))))
    assert np.abs(ours - found).max() <= 1.5 / 255  # of 16 bits, computed here
    assert len(np.unique(ours)) > 256


def test_red_of_display_p3_is_clipped_and_alpha_stays():
    image = Image.new("RGBA", (2, 1), (220, 60, 40, 255))
    image.putpixel((1, 0), (220, 60, 40, 0))
    found, _ = read(save(image, icc_profile=DISPLAY_P3))
    assert (found[0, 0] * 255).round().tolist() == pytest.approx([239, 35, 17], abs=1)
    assert (found[0, 1] == 1).all()
    assert (read(save(Image.new("RGB", (1, 1), (255, 0, 0)), icc_profile=DISPLAY_P3))[0] * 255).round().tolist() == [
        [[255, 0, 0]]]  # fmt: skip


def test_srgb_stays_as_it_is():
    table = np.round(
        65535 * np.where((x := np.linspace(0, 1, 1024)) <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    )
    curve = b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *table.astype(int))
    profiles = [matrix_profile(SRGB, PARAMETRIC), matrix_profile(SRGB, curve),
                ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]  # fmt: skip
    for icc in profiles:
        for form in ("PNG", "TIFF"):
            found, told = read(save(EIGHT, form, icc_profile=icc))
            assert not told and (found.astype(np.float32) == EIGHT / np.float32(255)).all()
        assert np.abs(read(png(SIXTEEN[..., :3], 2, chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))))[0]
                      - SIXTEEN[..., :3] / 65535).max() < 1e-7  # fmt: skip
    gray = EIGHT[..., 0]
    assert (read(save(gray, icc_profile=profiles[0]))[0][..., 1].astype(np.float32) == gray / np.float32(255)).all()


def test_gray_and_cmyk_profiles():
    gray = np.arange(256, dtype=np.uint8)[None]
    linear = (gray[0] / 255) ** (461 / 256)
    right = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(read(save(gray, icc_profile=GRAY))[0][0, :, 2] - right).max() <= 0.51 / 255
    deep = png(gray.astype(np.uint16)[..., None] * 257, 0, chunk(b"iCCP", b"x\0\0" + zlib.compress(GRAY)))
    assert np.abs(read(deep)[0][0, :, 0] - right).max() < 1e-6
    icc = cmyk_profile()
    inks = Image.fromarray(RNG.integers(0, 256, (16, 16, 4), dtype=np.uint8), "CMYK")
    file = save(inks, "TIFF", icc_profile=icc)
    found, told = read(file)
    assert not told and np.abs(found * 255 - by_little_cms(inks, icc)).max() < 1.01
    assert np.abs(found * 255 - np.asarray(inks.convert("RGB"))).max() > 30
    photo = save(inks, "JPEG", quality=100, icc_profile=icc)
    assert np.abs(read(photo)[0] * 255 - by_little_cms(Image.open(io.BytesIO(photo)), icc)).max() < 1.01


def test_colors_by_the_chunks_of_png():
    plain = save(EIGHT)

    def with_chunks(**chunks):
        found, told = read(plain[:33] + b"".join(chunk(k.encode(), v) for k, v in chunks.items()) + plain[33:])
        return found * 255, told

    p3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    wanted = by_little_cms(Image.fromarray(EIGHT), DISPLAY_P3)
    for chunks in ({"cICP": bytes([12, 13, 0, 1])}, {"gAMA": struct.pack(">I", 45455), "cHRM": p3}):
        found, told = with_chunks(**chunks)
        assert not told and np.abs(found - wanted).max() < 1.01
    linear, _ = with_chunks(gAMA=struct.pack(">I", 100000))
    level = EIGHT[0, 0, 0] / 255
    assert linear[0, 0, 0] == pytest.approx(255 * (1.055 * level ** (1 / 2.4) - 0.055), abs=0.5)
    usual, bt709 = struct.pack(">I", 45455), struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    same = ({"gAMA": usual}, {"sRGB": b"\0", "gAMA": struct.pack(">I", 100000)}, {"cICP": bytes([1, 13, 0, 1])},
            {"gAMA": usual, "cHRM": bt709})  # fmt: skip
    for chunks in same:
        found, told = with_chunks(**chunks)
        assert not told and (found.round() == EIGHT).all()
    found, told = with_chunks(cICP=bytes([9, 16, 0, 1]))
    assert (found.round() == EIGHT).all() and "primaries 9 with transfer 16" in told[0]


@pytest.mark.parametrize(
    "icc", [b"x" * 500, DISPLAY_P3[:200], GRAY, cmyk_profile()], ids=["junk", "cut", "gray", "cmyk"]
)
def test_a_profile_that_does_not_fit_is_ignored_with_a_warning(icc):
    for form in ("PNG", "TIFF", "WEBP"):
        found, told = read(save(EIGHT, form, icc_profile=icc, **({"lossless": True} if form == "WEBP" else {})))
        assert (found.astype(np.float32) == EIGHT / np.float32(255)).all()
        assert len(told) == 1 and "its color profile is ignored" in told[0]


# -- metadata ---------------------------------------------------------------------------------


LONG = zlib.compress(b"a" * 2_000_000)
CHUNKS = {
    "text of 2 MB": chunk(b"zTXt", b"workflow\0\0" + LONG),
    "text of 2 MB, international": chunk(b"iTXt", b"prompt\0\1\0\0\0" + LONG),
    "text of 70 MB": chunk(b"tEXt", b"k\0" + b"a" * 2**20) * 70,
    "text with a wrong checksum": chunk(b"tEXt", b"a\0b", 0),
    "text of an unknown compression": chunk(b"zTXt", b"a\0\7b"),
    "profile of 2 MB": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2_000_000))),
    "profile without data": chunk(b"iCCP", b"x"),
    "cut EXIF": chunk(b"eXIf", b"\0\x08\0\x02\x01\x12"),
    "cut sizes": chunk(b"pHYs", b"\0"),
    "gamma with a wrong checksum": chunk(b"gAMA", b"\0\0\0\1", 0),
    "chromaticities of 0": chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"cHRM", bytes(32)),
    "cut animation": chunk(b"acTL", b"\0"),
    "name of a chunk with a blank": chunk(b"t Xt", b""),
}


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("turned", [False, True])
def test_png_with_odd_chunks_before_and_after_the_pixels(kind, turned):
    plain = save(EIGHT)
    exif = chunk(b"eXIf", TURNED.tobytes()[6:]) if turned and kind != "cut EXIF" else b""
    right = np.rot90(EIGHT, -1) if exif else EIGHT
    for at in (33, len(plain) - 12):
        found, _ = read(plain[:33] + exif + plain[33:at] + CHUNKS[kind] + plain[at:] + b"trailing garbage")
        assert (found.astype(np.float32) == right / np.float32(255)).all()


def test_a_long_profile_is_applied():
    icc = matrix_profile(P3, gamma(2.2), "x" * 1_500_000)
    plain = save(EIGHT)
    found, told = read(plain[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(icc)) + plain[33:])
    assert not told and np.abs(found * 255 - by_little_cms(Image.fromarray(EIGHT), icc)).max() < 1.01


def test_jpeg_with_odd_segments():
    plain = save(EIGHT, "JPEG")
    right = read(plain)[0]
    for number, data in (
        (0, b"JFIF\0"), (1, b"Exif\0\0" + b"\xff" * 20), (1, TURNED.tobytes()[:12]), (14, b"Adobe"),
        (2, b"ICC_PROFILE\0\1\1junk"), (2, b"ICC_PROFILE\0\2\3junk"), (2, b"MPF\0" + b"\xff" * 30),
        (13, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\xff\xff"), (1, b"http://ns.adobe.com/xap/1.0/\0<"),
    ):  # fmt: skip
        segment = bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(data) + 2) + data
        assert (read(plain[:2] + segment + plain[2:])[0] == right).all(), data
    assert (read(save(EIGHT, "JPEG", exif=TURNED))[0] == np.rot90(right, -1)).all()


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_webp_and_avif_with_damaged_metadata(form):
    right = read(save(EIGHT, form))[0]
    for damage in ({"exif": TURNED.tobytes()[:20]}, {"xmp": b"\xff\xfe<" * 10}, {"icc_profile": b"x" * 200}):
        assert (read(save(EIGHT, form, **damage))[0] == right).all()
    assert (read(save(EIGHT, form, exif=TURNED))[0] == np.rot90(right, -1)).all()


def test_tiff_with_odd_tags():
    plain = save(EIGHT, "TIFF")
    (at,) = struct.unpack_from("<I", plain, 4)
    (count,) = struct.unpack_from("<H", plain, at)
    entries = [plain[at + 2 + 12 * k : at + 14 + 12 * k] for k in range(count)]
    far = struct.pack("<I", 10**8)
    odd = ((34675, 2, 4, b"abc\0"), (34675, 7, 500, far), (40000, 99, 1, far), (34665, 4, 1, far),
           (274, 3, 1, b"\x63\0\0\0"), (274, 2, 4, b"abc\0"), (270, 2, 10**6, far))  # fmt: skip
    for tag, kind, number, value in odd:
        more = sorted(
            [*entries, struct.pack("<HHI", tag, kind, number) + value], key=lambda e: int.from_bytes(e[:2], "little")
        )
        new = plain + bytes(len(plain) % 2)
        data = (
            new[:4] + struct.pack("<I", len(new)) + new[8:] + struct.pack("<H", count + 1) + b"".join(more) + bytes(4)
        )
        assert (read(data)[0].astype(np.float32) == EIGHT / np.float32(255)).all(), tag
    next_page = at + 2 + 12 * count
    assert (read(plain[:next_page] + far + plain[next_page + 4 :])[0] * 255).round().astype(
        int
    ).tolist() == EIGHT.tolist()


@pytest.mark.parametrize("value", range(1, 9))
def test_orientations(value):
    exif = Image.Exif()
    exif[0x0112] = value
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(save(EIGHT, exif=exif)))))
    assert (media.to_uint8(media.read(save(EIGHT, exif=exif))).permute(1, 2, 0).numpy() == upright).all()
    deep = png(EIGHT.astype(np.uint16) * 257, 2, chunk(b"eXIf", exif.tobytes()[6:]))
    assert (media.to_uint8(media.read(deep)).permute(1, 2, 0).numpy() == upright).all()


# -- modes, animations, threads ----------------------------------------------------------------


MODES = {"1": 127, "YCbCr": 2, "HSV": 3, "LAB": 3}
"""Mode → largest error of its conversion by Pillow; that of others is 0."""


@pytest.mark.parametrize("mode", [*MODES, "L", "P", "LA", "La", "PA", "RGBA", "RGBa", "RGBX", "CMYK"])
def test_modes_of_pillow(mode):
    rgb = Image.fromarray(np.repeat(EIGHT[..., :1] // 16 * 16, 3, 2))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    elif mode in ("P", "PA"):
        image = rgb.convert("P", palette=Image.Palette.ADAPTIVE).convert(mode)
    else:
        step = {"La": "LA", "RGBa": "RGBA"}.get(mode)
        image = (rgb.convert(step) if step else rgb).convert(mode, dither=Image.Dither.NONE)
    assert np.abs(read(image)[0] * 255 - np.asarray(rgb)).max() <= MODES.get(mode, 0) + 1e-4


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused_and_one_is_read(form):
    frames = [Image.new("P", (4, 4), k) for k in range(3)]
    for k, frame in enumerate(frames):
        frame.putpalette([9 * k, 0, 0] * 256)
    data = save(frames[0], form, save_all=True, append_images=frames[1:])
    reason = r"has 3 pages" if form == "TIFF" else r"is animated \(3 frames\)"
    with pytest.raises(ValueError, match=reason):
        media.read(data)
    if form == "PNG":  # also if its text makes Pillow refuse it
        with pytest.raises(ValueError, match=reason):
            media.read(data[:33] + CHUNKS["text of 2 MB"] + data[33:])
    assert media.read(save(frames[0], form)).shape == (3, 4, 4)


def test_a_palette_with_transparency():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    found, _ = read(save(image, transparency=bytes([255, 0, 51])))
    np.testing.assert_allclose(found[0], [[1, 0, 0], [1, 1, 1], [0.8, 0.8, 1]], atol=1e-7)
    assert (read(save(image, "GIF", transparency=1))[0][0, 1] == 1).all()


def test_reading_from_several_threads_and_under_a_callers_filter():
    files = [make() for make, _ in DEEP.values()] + [save(EIGHT, icc_profile=DISPLAY_P3), save(EIGHT, "JPEG")]
    files += [save(EIGHT)[:33] + part + save(EIGHT)[33:] for part in CHUNKS.values()]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        once = [media.read(data, "image") for data in files]
        with ThreadPoolExecutor(8) as pool:
            many = list(pool.map(lambda data: media.read(data, "image"), files * 4))
        assert warnings.filters == filters  # settings of the process stay as they are
    assert all(torch.equal(found, once[i % len(files)]) for i, found in enumerate(many))


@pytest.mark.parametrize(("dtype", "channels", "layout"), [
    ("<f4", 3, "3 channels of 32-bit floats"), (">u2", 2, "2 channels of 16-bit integers"),
    ("<f8", 1, "1 channel of 64-bit floats"),
])  # fmt: skip
def test_a_tiff_that_pillow_does_not_know_is_described(dtype, channels, layout):
    pixels, bits = np.zeros((4, 5, channels), dtype), 8 * np.dtype(dtype).itemsize
    order, kind = dtype[0], 3 if dtype[1] == "f" else 1
    color = 2 if channels == 3 else 1
    tags = [(256, [5]), (257, [4]), (258, [bits] * channels), (259, [1]), (262, [color]), (273, [512]),
            (277, [channels]), (278, [4]), (279, [pixels.nbytes]), *([(338, [2])] * (channels == 2)),
            (339, [kind] * channels)]  # fmt: skip
    entries, longer = b"", b""
    for tag, values in tags:
        value = struct.pack(f"{order}{len(values)}H", *values)
        if len(value) > 4:
            value, longer = struct.pack(order + "I", 256 + len(longer)), longer + value
        entries += struct.pack(order + "HHI", tag, 3, len(values)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4)
    data = (head.ljust(256, b"\0") + longer).ljust(512, b"\0") + pixels.tobytes()
    with pytest.raises(ValueError, match=f"a TIFF of {layout}, compression 1 cannot be read; convert it to 16-bit PNG"):
        media.read(data)
