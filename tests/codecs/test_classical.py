"""Codecs whose tokens are file bytes, and the text tokenizers."""

import io
import itertools
import math
import random
import sys
import zlib

import numpy as np
import pytest
import skimage.data
import soundfile
import torch
from PIL import Image

from tokenloom import codecs, errors
from tokenloom.codecs import media
from tokenloom.codecs.audio import ogg
from tokenloom.codecs.text import bpe
from tokenloom.codecs.types import MAX_PIXELS, Codes, Target

IMAGES = ["image/jpeg", "image/webp", "image/avif", "image/jpeg2000", "image/jpegxl", "image/heif", "image/png"]
SOUNDS = ["audio/opus", "audio/vorbis", "audio/mp3", "audio/aac", "audio/flac"]


@pytest.fixture(scope="module")
def picture():
    """Return an 8-bit photograph whose size is not a multiple of any block."""
    return media.read(skimage.data.astronaut()[:203, 100:333])[None]


def phrase(samples, rate, channels=1):
    """Return (1, channels, samples): a decaying chord with an onset every 0.3 s and a little noise."""
    t = torch.arange(samples, dtype=torch.float64) / rate
    notes = sum(torch.sin(2 * math.pi * hertz * t) for hertz in (220.0, 277.2, 329.6, 1760.0))
    noise = torch.randn(channels, samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (0.2 * notes * torch.exp(-6 * (t % 0.3)) + 0.003 * noise).clamp(-1, 1).float()[None]


def file_bytes(codes, item=0):
    return bytes(codes.indices[item, 0, : codes.lengths[item]].tolist())


def codes_of(data, size):
    return Codes(torch.tensor(list(data))[None, None], torch.tensor([size]), torch.tensor([len(data)]))


def built(name, **kwargs):
    codec = codecs.build(name, **kwargs)
    signal = phrase(9_000, codec.spec.sample_rate, codec.spec.channels) if name in SOUNDS else torch.rand(1, 3, 37, 53)
    return codec, signal


# -- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_bytes_are_pillows(name, picture):
    codec = codecs.build(name)
    codec.load_plugin()
    pixels = Image.fromarray(media.to_uint8(picture[0]).permute(1, 2, 0).numpy())
    for setting in {codec.settings.sweep[0], codec.settings.default, codec.settings.sweep[-1]}:
        file = io.BytesIO()
        pixels.save(file, **codec.options(setting))
        codes = codec.encode(picture, setting)
        assert file_bytes(codes) == file.getvalue()
        alone = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(media.to_uint8(codec.decode(codes)[0]), alone)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (17, 31)])
def test_odd_sizes(name, size):
    codec, x = codecs.build(name), torch.rand(2, 3, *size)
    codes = codec.encode(x)
    assert codes.indices.shape[:2] == (2, 1) and codes.sizes.tolist() == [list(size)] * 2
    decoded = codec.decode(codes)
    assert decoded.shape == x.shape and decoded.min() >= 0 and decoded.max() <= 1


@pytest.mark.parametrize("name", [n for n in IMAGES if n != "image/png"])
def test_image_sweep_rises_evenly(name, picture):
    """Rate and PSNR rise over the sweep, and no step is more than half its range in log-rate."""
    codec = codecs.build(name)
    assert codec.settings.sweep[0] == codec.settings.values[0] and codec.settings.sweep[-1] == codec.settings.values[-1]
    bits, errors = [], []
    for setting in codec.settings.sweep:
        codes = codec.encode(picture, setting)
        bits.append(math.log(int(codes.lengths[0])))
        errors.append(float((codec.decode(codes) - picture).square().mean()))
    steps = [b - a for a, b in itertools.pairwise(bits)]
    assert min(steps) > 0 and max(steps) < 0.3 * (bits[-1] - bits[0])
    assert errors == sorted(errors, reverse=True)


def test_png_is_lossless(picture):
    codec = codecs.build("image/png")
    assert torch.equal(codec.decode(codec.encode(picture)), picture)


def test_unequal_sizes_are_padded_with_zeros(picture):
    codec = codecs.build("image/png")
    a, b = codec.encode(picture[..., :5, :9]), codec.encode(picture[..., :8, :4])
    width = max(a.indices.shape[2], b.indices.shape[2])
    indices = torch.zeros(2, 1, width, dtype=torch.int64)
    for i, codes in enumerate((a, b)):
        indices[i, :, : codes.indices.shape[2]] = codes.indices[0]
    both = codec.decode(Codes(indices, torch.cat([a.sizes, b.sizes]), torch.cat([a.lengths, b.lengths])))
    assert both.shape == (2, 3, 8, 9)
    assert torch.equal(both[0, :, :5, :9], picture[0, :, :5, :9]) and torch.equal(
        both[1, :, :8, :4], picture[0, :, :8, :4]
    )
    assert not both[0, :, 5:].any() and not both[1, :, :, 4:].any()


@pytest.mark.parametrize("name", ["image/jpeg", "image/webp", "image/avif"])
def test_too_long_a_side(name):
    codec = codecs.build(name)
    codec.decode(codec.encode(torch.rand(1, 3, 1, codec.max_side)))
    with pytest.raises(ValueError, match=f"{name} needs sides of at most {codec.max_side} pixels"):
        codec.encode(torch.rand(1, 3, codec.max_side + 1, 1))


def test_declared_size_is_checked_before_pixels(recwarn):
    """A PNG header of 2**30 pixels is refused without reading further."""
    codec = codecs.build("image/png")
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (2**15).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="image/png"):
        codec.decode(codes_of(data, (1, 1)))
    assert MAX_PIXELS < 2**30 and not recwarn.list


@pytest.mark.parametrize("name", [n for n in IMAGES if n != "image/png"])
def test_image_targets(name, picture):
    codec = codecs.build(name)
    codes = codec.encode(picture, Target(bits_per_pixel=1.0))
    pixels = picture.shape[2] * picture.shape[3]
    assert 0.8 <= int(codes.lengths[0]) * 8 / pixels <= 1.0


# -- sounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 24_000, 44_100, 96_000])
def test_exact_lengths(name, rate):
    for channels, samples in ((1, 1), (2, 2), (1, 7), (2, 12_345)):
        codec = codecs.build(name, sample_rate=rate, channels=channels)
        x = phrase(samples, rate, channels)
        for setting in {codec.settings.values[0], codec.settings.default, codec.settings.values[-1]}:
            codes = codec.encode(x, setting)
            decoded = codec.decode(codes)
            assert decoded.shape == x.shape and codes.sizes.tolist() == [[samples]]
            assert decoded.abs().max() <= 1 and decoded.isfinite().all()


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 48_000])
def test_audio_is_not_shifted(name, rate):
    """At the highest setting the error is far below the signal; a shift by one sample would prevent that."""
    codec = codecs.build(name, sample_rate=rate)
    x = phrase(rate * 2, rate)
    decoded = codec.decode(codec.encode(x, codec.settings.values[-1]))
    inner = slice(rate // 10, -rate // 10)
    ratio = x[..., inner].square().mean() / (x - decoded)[..., inner].square().mean()
    assert 10 * ratio.log10() > 15


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_bytes_repeat(name):
    codec, x = built(name)
    assert file_bytes(codec.encode(x)) == file_bytes(codec.encode(x)) == file_bytes(codec.encode(x.repeat(3, 1, 1)), 2)
    again = codecs.build(name, sample_rate=24_000, channels=1)
    assert again.fingerprint == codec.fingerprint != codecs.build(name, sample_rate=8_000).fingerprint


@pytest.mark.parametrize("name", ["audio/opus", "audio/vorbis", "audio/mp3", "audio/aac"])
@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100])
def test_audio_sweep_rises(name, rate):
    codec = codecs.build(name, sample_rate=rate)
    assert codec.settings.sweep[0] == codec.settings.values[0] and codec.settings.sweep[-1] == codec.settings.values[-1]
    x = phrase(3 * rate, rate)
    sizes = [int(codec.encode(x, setting).lengths[0]) for setting in codec.settings.sweep]
    assert sizes == sorted(set(sizes))


def test_opus_and_mp3_meet_the_rate_they_name():
    x = phrase(10 * 24_000, 24_000, 2)
    opus = codecs.build("audio/opus", channels=2)
    assert int(opus.encode(x, 32).lengths[0]) * 8 / 10_000 == pytest.approx(2 * 32, rel=0.15)
    mp3 = codecs.build("audio/mp3", channels=2)
    assert int(mp3.encode(x, 64).lengths[0]) * 8 / 10_000 == pytest.approx(64, rel=0.15)


def test_flac_is_lossless():
    codec = codecs.build("audio/flac", sample_rate=11_025, channels=2)
    x = torch.randint(-32768, 32768, (2, 2, 70_001)) / 32768
    assert torch.equal(codec.decode(codec.encode(x)), x)


def test_ogg_is_libsndfiles_but_for_serial_and_padding():
    x = phrase(50_000, 24_000)
    for name in ("audio/opus", "audio/vorbis"):
        codec = codecs.build(name)
        plain = media.encode_audio(x[0], 24_000, **codec.options(codec.settings.default))
        ogg.verify(plain)
        ours = file_bytes(codec.encode(x))
        audio_of = [soundfile.read(io.BytesIO(data))[0] for data in (plain, ours)]
        np.testing.assert_array_equal(*audio_of)
        padding = 0 if name == "audio/vorbis" else 700
        assert padding <= len(plain) - len(ours) <= padding + 200
        assert ogg.normalize(ours) == ours
        for mine, theirs in itertools.zip_longest(ogg.pages(ours), ogg.pages(plain)):
            assert mine[14:18] == bytes(4)
            if b"OpusTags" not in mine:
                assert (mine[:14], mine[26:]) == (theirs[:14], theirs[26:])


def test_ogg_crc_against_the_definition():
    crc = 0
    for byte in b"tokenloom":
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x104C11DB7 if crc & 0x80000000 else 0)
    assert ogg.crc32(b"tokenloom") == crc


def test_a_long_vorbis_does_not_crash():
    codec = codecs.build("audio/vorbis", sample_rate=48_000, channels=2)
    x = phrase(48_000 * 61, 48_000, 2)
    assert codec.decode(codec.encode(x)).shape == x.shape


def test_declared_length_rate_and_channels_are_checked():
    codec = codecs.build("audio/opus")
    data = file_bytes(codec.encode(phrase(5_000, 24_000)))
    with pytest.raises(ValueError, match=r"must hold .* 5001 samples, got .* 5000 samples"):
        codec.decode(codes_of(data, (5_001,)))
    other = file_bytes(codecs.build("audio/opus", channels=2).encode(phrase(5_000, 24_000, 2)))
    with pytest.raises(ValueError, match=r"must hold .* 1 channels and 5000 samples, got .* 2 channels"):
        codec.decode(codes_of(other, (5_000,)))
    with pytest.raises(ValueError, match="complete Ogg page"):
        codec.decode(codes_of(file_bytes(codecs.build("audio/flac").encode(phrase(5_000, 24_000))), (5_000,)))


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize(
    "kwargs",
    [{"sample_rate": 0}, {"sample_rate": 24_000.0}, {"sample_rate": True}, {"channels": 3}, {"channels": "1"}],
)
def test_bad_arguments(name, kwargs):
    (key, value), *_ = kwargs.items()
    with pytest.raises(ValueError, match=rf"{key} of {name} must be .* got {value!r}"):
        codecs.build(name, **kwargs)


# -- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES + SOUNDS)
def test_every_cut_is_refused(name):
    codec, x = built(name)
    codes = codec.encode(x)
    data, size = file_bytes(codes), tuple(codes.sizes[0].tolist())
    for cut in sorted({0, 1, 2, len(data) - 2, len(data) - 1, *range(3, len(data), max(1, len(data) // 60))}):
        with pytest.raises(ValueError, match=name):
            codec.decode(codes_of(data[:cut], size))


@pytest.mark.parametrize("name", IMAGES + SOUNDS)
def test_damage_decodes_or_is_refused_in_one_line(name, capfd):
    codec, x = built(name)
    codes = codec.encode(x)
    data, size, rng = file_bytes(codes), tuple(codes.sizes[0].tolist()), random.Random(name)
    refused = 0
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 20))):
            place = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 300))
            broken[place] = rng.choice((0, 255, broken[place] ^ (1 << rng.randrange(8)), rng.randrange(256)))
        try:
            decoded = codec.decode(codes_of(broken, size))
            assert decoded.shape == x.shape and decoded.isfinite().all()
        except ValueError as error:
            refused += 1
            assert name in str(error) and "\n" not in str(error)
    assert refused > 50
    if name in SOUNDS:  # their formats have checksums, except AAC's
        assert refused > (50 if name == "audio/aac" else 200)
        assert capfd.readouterr().err == ""  # mpg123 would complain on stderr


@pytest.mark.parametrize("name", ["audio/opus", "audio/vorbis"])
def test_damage_behind_good_page_checksums(name):
    codec, x = built(name)
    codes = codec.encode(x)
    data, rng = file_bytes(codes), random.Random(0)
    for _ in range(200):
        broken = bytearray(data)
        position = 0
        for page in ogg.pages(data):
            body = 27 + page[26]
            for _ in range(rng.choice((0, 1, 5))):
                broken[position + rng.randrange(body, len(page))] = rng.randrange(256)
            whole = bytes(broken[position : position + len(page)])
            checksum = ogg.crc32(whole[:22] + bytes(4) + whole[26:])
            broken[position + 22 : position + 26] = checksum.to_bytes(4, "little")
            position += len(page)
        ogg.verify(broken)
        try:
            assert codec.decode(codes_of(broken, (9_000,))).shape == x.shape
        except ValueError as error:
            assert "\n" not in str(error)


# -- text --------------------------------------------------------------------------------------

TEXTS = [
    "",
    "waving hand dark skin tone",
    "Grüße\r\n\t\0 \u2028",
    "\U0001d11e \U0001f642\U0001f3fd\u200d\U0001f680 \ufb01 e\u0301 \xe9",
    " two  spaces ",
    "<|endoftext|>",
]


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.BPE.train_from_iterator(
        iter(["waving hand", "waving hand light skin tone", "raised hand"] * 4), vocab_size=300
    )


def test_bytes_round_trip():
    codec = codecs.build("text/bytes")
    codes = codec.encode(TEXTS)
    assert codec.decode(codes) == TEXTS
    assert codes.lengths.tolist() == codes.sizes[:, 0].tolist() == [len(t.encode()) for t in TEXTS]
    assert codec.decode(codec.encode(["", ""])) == ["", ""]
    anything = torch.randint(0, 256, (4, 1, 50), generator=torch.Generator().manual_seed(0))
    decoded = codec.decode(Codes(anything, torch.full((4, 1), 50), torch.full((4,), 50)))
    assert all(isinstance(text, str) and "\ufffd" in text for text in decoded)


def test_bpe_spells_every_string(tokenizer):
    codes = tokenizer.encode(TEXTS)
    assert tokenizer.decode(codes) == TEXTS
    assert codes.sizes[:, 0].tolist() == [len(t.encode()) for t in TEXTS]
    assert codes.lengths[1] < codes.sizes[1, 0] / 2 and codes.lengths[0] == 0
    (entries,) = tokenizer.spec.codebook_sizes
    assert 256 < entries <= 300
    anything = torch.randint(0, entries, (4, 1, 50), generator=torch.Generator().manual_seed(0))
    decoded = tokenizer.decode(Codes(anything, torch.full((4, 1), 50), torch.full((4,), 50)))
    assert all(isinstance(text, str) and text for text in decoded)


def test_bpe_from_file_and_text(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.content, encoding="utf-8")
    for given in (str(path), tokenizer.content):
        codec = codecs.build("text/bpe", tokenizer=given)
        assert torch.equal(codec.encode(TEXTS).indices, tokenizer.encode(TEXTS).indices)
    again = codecs.build("text/bpe", **tokenizer.config)
    assert again.fingerprint == tokenizer.fingerprint


def test_bpe_training_repeats():
    words = [f"word{i % 37} tone{i % 11}" for i in range(500)]
    first, second = (bpe.BPE.train_from_iterator(words, vocab_size=320) for _ in range(2))
    assert first.content == second.content and first.fingerprint == second.fingerprint


def test_bpe_loads_other_kinds_of_tokenizer():
    """Special tokens, padding and truncation of a word-level tokenizer do not reach the codes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    other = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "one": 2, "two": 9}, unk_token="[UNK]"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    other.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    other.enable_padding()
    other.enable_truncation(2)
    codec = codecs.build("text/bpe", tokenizer=other.to_str())
    codes = codec.encode(["one two two", "three"])
    assert codec.spec.codebook_sizes == (10,) and codes.lengths.tolist() == [3, 1]
    assert codec.decode(codes) == ["one two two", "[UNK]"]
    gap = codec.decode(Codes(torch.tensor([[[5, 2]]]), torch.tensor([[3]]), torch.tensor([2])))
    assert gap == ["one"]


@pytest.mark.parametrize("entries", [0, 1])
def test_a_vocabulary_has_tokens_that_cost_bits(entries):
    """With one entry, an empty payload of a container held 2^40 tokens."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({"one": 0} if entries else {}, unk_token="[UNK]")).to_str()
    with pytest.raises(ValueError, match=f"at least 2 entries, got {entries}"):
        codecs.build("text/bpe", tokenizer=tokenizer)


def test_what_a_tokenizer_refuses_is_a_value_error():
    """The library raises Exception."""
    from tokenizers import Tokenizer, models

    codec = codecs.build(
        "text/bpe", tokenizer=Tokenizer(models.WordLevel({"one": 0, "three": 1}, unk_token="[UNK]")).to_str()
    )
    assert codec.decode(codec.encode(["one"])) == ["one"]
    with pytest.raises(ValueError, match="the tokenizer refuses: WordLevel") as error:
        codec.encode(["two"])
    assert "\n" not in str(error.value)


def test_bad_text(tokenizer, tmp_path):
    for codec in (codecs.build("text/bytes"), tokenizer):
        with pytest.raises(ValueError, match="surrogate"):
            codec.encode(["\ud800"])
    with pytest.raises(ValueError, match="text/bpe needs tokenizer"):
        codecs.build("text/bpe")
    with pytest.raises(FileNotFoundError, match="missing"):
        codecs.build("text/bpe", tokenizer="missing.json")
    (tmp_path / "a.json").write_text("no json")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        codecs.build("text/bpe", tokenizer=str(tmp_path / "a.json"))
    with pytest.raises(ValueError, match=r"must be a tokenizer\.json"):
        codecs.build("text/bpe", tokenizer="{}")
    with pytest.raises(ValueError, match=r"vocab_size must be an integer from 256 .*got 100"):
        bpe.BPE.train_from_iterator(["a"], vocab_size=100)


# -- extras --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (8, 16), (64, 64), (9, 17), (90, 160), (30, 40), (3, 5000)])
def test_jpegxl_declares_its_size(size):
    """The plugin decodes when it opens, so another size is refused before."""
    codec = codecs.build("image/jpegxl")
    data = file_bytes(codec.encode(torch.rand(1, 3, *size), 5))
    assert codec.decode(codes_of(data, size)).shape == (1, 3, *size)
    with pytest.raises(ValueError, match=rf"height and width \(\d+, {size[1]}\), got \({size[0]}, {size[1]}\)"):
        codec.decode(codes_of(data, (size[0] + 1, size[1])))


def test_avif_speed_changes_the_bytes_alone(picture):
    usual, slow = codecs.build("image/avif"), codecs.build("image/avif", speed=0)
    codes = slow.encode(picture, 30)
    assert torch.equal(usual.decode(codes), slow.decode(codes))
    assert int(codes.lengths[0]) < int(usual.encode(picture, 30).lengths[0])
    assert codecs.build("image/avif", speed=6).fingerprint == usual.fingerprint != slow.fingerprint
    assert torch.equal(codecs.decompress(slow.compress(picture, 30)), slow.decode(codes))
    with pytest.raises(ValueError, match="speed of image/avif must be"):
        codecs.build("image/avif", speed=11)


@pytest.mark.parametrize("name", ["image/jpegxl", "image/heif", "audio/aac", "audio/codec2"])
def test_a_missing_package_is_named(name, monkeypatch):
    package = {"image/jpegxl": "pillow_jxl", "image/heif": "pillow_heif", "audio/aac": "av"}.get(name, "pycodec2")
    for module in [m for m in sys.modules if m.partition(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, module, None)
    codec = codecs.build(name)
    x = torch.rand(1, codec.spec.channels, *((20, 20) if codec.spec.channels == 3 else (900,)))
    with pytest.raises(errors.MissingPackage, match=rf"needs {package}.* 'tokenloom\[classical\]'"):
        codec.encode(x)
