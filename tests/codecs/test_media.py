"""Files, arrays and PIL images in and out."""

import io

import numpy as np
import pytest
import skimage.data
import soundfile
import torch
from PIL import Image

from tokenloom.codecs import media
from tokenloom.codecs.types import MAX_PIXELS, Modality


@pytest.fixture
def astronaut():
    return skimage.data.astronaut()[:101, :75]


def tone(samples, rate, hertz=440.0):
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(samples, dtype=torch.float64) / rate).float()[None]


def test_image_sources_agree(tmp_path, astronaut):
    path = tmp_path / "a.PNG"
    Image.fromarray(astronaut).save(path)
    expected = torch.from_numpy(astronaut.copy()).permute(2, 0, 1).float() / 255
    sources = [
        path,
        str(path),
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        Image.open(path),
        astronaut,
        astronaut / 255.0,
    ]
    for source in sources:
        image = media.read(source)
        assert image.dtype == torch.float32 and image.shape == (3, 101, 75)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-7)
        assert torch.equal(media.to_uint8(image).permute(1, 2, 0), torch.from_numpy(astronaut.copy()))


def test_image_modes():
    gray = np.array([[0, 51], [102, 255]], np.uint8)
    for image in (Image.fromarray(gray), Image.fromarray(gray).convert("P"), gray):
        assert torch.allclose(media.read(image, "image"), torch.from_numpy(gray).float().expand(3, 2, 2) / 255)
    deep = np.array([[0, 1], [32768, 65535]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    assert torch.equal(media.read(file)[1], torch.from_numpy(deep.astype(np.float32)) / 65535)
    half_red = Image.new("RGBA", (1, 1), (255, 0, 0, 51))  # 20 % red over white
    torch.testing.assert_close(media.read(half_red)[:, 0, 0], torch.tensor([1.0, 0.8, 0.8]))
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=0)
    assert torch.equal(media.read(file.getvalue()), torch.ones(3, 1, 1))


def test_exif_orientation(astronaut):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(astronaut).save(file, "PNG", exif=exif)
    turned = media.to_uint8(media.read(file)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(turned, np.rot90(astronaut, -1))


def test_resample_lengths_and_content():
    for source, target in ((44_100, 24_000), (8_000, 48_000), (24_000, 11_025), (48_000, 8_000), (1_000, 192_000)):
        for n in (1, 2, 7, 1_000, 12_345):
            out = media.resample(torch.zeros(2, 1, n), source, target)
            assert out.shape == (2, 1, -(-n * target // source))
    up = media.resample(tone(8_000, 8_000), 8_000, 24_000)
    torch.testing.assert_close(up[:, 2_000:-2_000], tone(24_000, 24_000)[:, 2_000:-2_000], rtol=0, atol=1e-4)
    loud = media.resample(torch.tensor([[1.0, -1.0] * 500]), 8_000, 48_000)
    assert loud.abs().max() <= 1
    x = torch.rand(3, 5)
    assert media.resample(x, 8_000, 8_000) is x


def test_audio_sources_agree(tmp_path):
    path = tmp_path / "a.wav"
    wave = torch.cat([tone(4_001, 8_000), -tone(4_001, 8_000)])
    media.write(wave, path, sample_rate=8_000)
    assert media.sample_rate(path) == media.sample_rate(path.read_bytes()) == 8_000
    read = media.read(path)
    assert read.dtype == torch.float32 and read.shape == (2, 4_001)
    assert (read - wave).abs().max() <= 2**-16
    assert torch.equal(read, media.read(path.read_bytes()))
    assert torch.equal(media.read(read.numpy()), read)
    assert torch.equal(media.read(soundfile.read(path, dtype="int16")[0].T.copy()), read)
    assert media.read(read[0].numpy()).shape == (1, 4_001)
    assert media.read(path, channels=1).abs().max() < 1e-6
    assert media.read(path, sample_rate=24_000, channels=2).shape == (2, 12_003)
    assert media.read(np.zeros(5, np.float32), channels=2).shape == (2, 5)


@pytest.mark.parametrize("suffix", media.AUDIO_SUFFIXES)
def test_audio_round_trip(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    wave = tone(70_001, 48_000)
    media.write(wave, path, sample_rate=48_000)
    back = media.read(path)
    assert back.shape == wave.shape and media.sample_rate(path) == 48_000
    lossless = media.audio.FORMATS[suffix][1] == "PCM_16"
    assert (back - wave)[:, 1_000:-1_000].abs().max() <= (2**-16 if lossless else 0.05)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", list(media.images.FORMATS))
def test_image_round_trip(tmp_path, suffix, astronaut):
    path = tmp_path / f"a{suffix}"
    media.write(media.read(astronaut), path)
    back = media.read(path)
    assert back.shape == (3, 101, 75)
    error = (back - media.read(astronaut)).abs()
    assert error.mean() < 0.02
    if suffix not in (".jpg", ".jpeg", ".avif"):
        assert error.max() == 0
    assert list(tmp_path.iterdir()) == [path]


def test_text_round_trip(tmp_path):
    path = tmp_path / "a.txt"
    text = "Grüße\r\n\t𝄞 \0 end"
    media.write(text, path)
    assert media.read(path) == text == media.read(path.read_bytes())
    media.write("", path)
    assert media.read(path) == ""


def test_text_encodings(tmp_path):
    text = "Grüße\r\n\0 ♥"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert media.read(text.encode(encoding), "text") == text
    for encoding in ("utf-16-be", "utf-32-be"):
        assert media.read(("\ufeff" + text).encode(encoding), "text") == text
    with pytest.raises(ValueError, match=r"read as text: it must be UTF-8, .* got byte 0xfc at position 2; .* iconv"):
        media.read(text.replace("♥", "").encode("cp1252"), "text")


def test_modality_by_suffix():
    assert media.modality("x/y.JPG") is Modality.IMAGE
    assert media.modality("y.opus") is Modality.AUDIO
    assert media.modality("y.txt") is Modality.TEXT
    with pytest.raises(ValueError, match=r"y\.xyz: the suffix must be one of .* got \.xyz"):
        media.modality("y.xyz")


def test_write_is_atomic(tmp_path, astronaut):
    path = tmp_path / "a.png"
    media.write(media.read(astronaut), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN"):
        media.write(torch.full((3, 2, 2), torch.nan), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "signal, name, options, reason",
    [
        (torch.zeros(3, 2, 2), "a.xyz", {}, "the suffix must be one of"),
        (torch.zeros(3, 2, 2), "a.gif", {}, "the suffix of a written image must be one of"),
        (torch.zeros(1, 3, 2, 2), "a.png", {}, r"\(3, height, width\)"),
        (torch.full((3, 2, 2), 1.5), "a.png", {}, r"must be in \[0, 1\], got \[1\.5, 1\.5\]"),
        (torch.zeros(3, 1, 20_000), "a.webp", {}, "cannot be written"),
        (torch.zeros(1, 5), "a.wav", {}, "needs its sample_rate"),
        (torch.zeros(5), "a.wav", {"sample_rate": 8_000}, r"\(channels, samples\)"),
        (torch.tensor([[torch.inf]]), "a.mp3", {"sample_rate": 8_000}, "NaN or infinity"),
        (torch.zeros(1, 5), "a.opus", {"sample_rate": 44_100}, "44100 Hz cannot be written as OPUS"),
        ("text", "a.png", {}, "must hold an image, got str"),
        (torch.zeros(1, 5), "a.txt", {}, "must hold text, got float32 array"),
    ],
)
def test_bad_writes(tmp_path, signal, name, options, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        media.write(signal, tmp_path / name, **options)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def gif_of_two_frames():
    file = io.BytesIO()
    frames = [Image.new("L", (4, 4), v) for v in (0, 255)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def huge_png():
    file = io.BytesIO()
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def cut_png():
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(file, "PNG")
    return file.getvalue()[:20_000]


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("a.png", lambda: b"this is a text", "cannot be read as an image"),
        ("a.png", cut_png, "cannot be read as an image"),
        ("a.gif", gif_of_two_frames, r"animated \(2 frames\)"),
        ("a.png", huge_png, "at most"),
        ("a.wav", lambda: b"this is a text", "cannot be read as audio"),
        ("a.mp3", lambda: b"", "cannot be read as audio"),
        ("a.txt", lambda: b"\xff\xfe\0", "cannot be read as text: it must be UTF-16-LE"),
        ("a", lambda: b"", "the suffix must be one of .* got none"),
    ],
)
def test_bad_files(tmp_path, recwarn, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(ValueError, match=reason) as caught:
        media.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not recwarn.list


def test_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.png"):
        media.read(tmp_path / "missing.png")
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        media.sample_rate(tmp_path / "missing.wav")
    with pytest.raises(ValueError, match="is a folder"):
        media.read(tmp_path, "image")
    with pytest.raises(ValueError, match="must be a path, bytes, a PIL image or an array, got int"):
        media.read(5)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        media.read(np.full((2, 2, 3), 7.0))
    with pytest.raises(ValueError, match=r"outside \[-1, 1\]"):
        media.read(np.full(4, np.nan))
    with pytest.raises(ValueError, match="int64 array of shape"):
        media.read(np.zeros((2, 2, 3), np.int64))
    with pytest.raises(ValueError, match="it has 2 channels, which can be mixed down to 1 channel but not to 3"):
        media.read(np.zeros((2, 8), np.float32), channels=3)


def test_header_with_too_many_samples(tmp_path):
    """A WAV of 100 samples whose header states 2**28 samples takes memory for 100."""
    path = tmp_path / "a.wav"
    media.write(torch.zeros(1, 100), path, sample_rate=8_000)
    data = bytearray(path.read_bytes())
    data[40:44] = (2**29).to_bytes(4, "little")
    assert media.read(bytes(data)).shape == (1, 100)
