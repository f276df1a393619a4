"""Audio files of strangers: unknown and wrong lengths, chains, floats beyond ±1, and what is told of changes."""

import io
import os
import struct
import threading
import warnings

import numpy as np
import pytest
import soundfile
import torch

from tokenloom.codecs import media
from tokenloom.codecs.media import audio, lengths, notices

RATE = 16_000
TONE = (0.5 * np.sin(np.arange(RATE) * 0.2)).astype(np.float32)


def sound(samples=TONE, rate=RATE, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **options)
    return bytearray(file.getvalue())


def read(data, **options):
    """Return a waveform and the warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return media.read(bytes(data), "audio", **options), [str(one.message) for one in told]


def put(data, at, value):
    data[at : at + len(value)] = value
    return data


def piped_flac():
    file = sound(format="FLAC")
    file[21] &= 0xF0  # the upper 4 of 36 bits
    return put(file, 22, bytes(4))


def wav(riff, data):
    file = sound(format="WAV", subtype="PCM_16")
    return put(put(file, 4, struct.pack("<I", riff)), file.find(b"data") + 4, struct.pack("<I", data))


def with_sizes(form, *changes):
    file = sound(format=form, subtype="PCM_16")
    for name, offset, value in changes:
        put(file, file.rfind(name) + offset if name else offset, value)
    return file


FF = b"\xff" * 8
UNKNOWN = {
    "FLAC into a pipe": piped_flac,
    "WAV of a recorder that was cut off": lambda: wav(0, 0),
    "WAV of ffmpeg into a pipe": lambda: wav(2**32 - 1, 2**32 - 1),
    "WAV of sox into a pipe": lambda: wav(0x7FFFFFFF + 36, 0x7FFFFFFF),
    "WAV with the file's size alone": lambda: wav(2 * RATE + 36, 0),
    "W64": lambda: with_sizes("W64", (None, 16, FF), (b"data\xf3\xac", 16, FF[:7] + b"\x7f")),
    "W64 of zeros": lambda: with_sizes("W64", (None, 16, bytes(8)), (b"data\xf3\xac", 16, bytes(8))),
    "RF64": lambda: with_sizes("RF64", (b"ds64", 8, FF * 3)),
    "RF64 of zeros": lambda: with_sizes("RF64", (b"ds64", 8, bytes(24))),
    "AU": lambda: with_sizes("AU", (None, 8, FF[:4])),
    "AU of zeros": lambda: with_sizes("AU", (None, 8, bytes(4))),
    "AIFF": lambda: with_sizes("AIFF", (None, 4, FF[:4]), (b"SSND", 4, FF[:4]), (b"COMM", 10, FF[:4])),
    "AIFF of zeros": lambda: with_sizes("AIFF", (None, 4, bytes(4)), (b"SSND", 4, bytes(4)), (b"COMM", 10, bytes(4))),
    "CAF": lambda: with_sizes("CAF", (b"data", 4, FF)),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_lengths_are_read_to_the_end(kind, tmp_path):
    data = bytes(UNKNOWN[kind]())
    waveform, told = read(data)
    assert not told and waveform.shape == (1, RATE)
    assert np.abs(waveform[0].numpy() - TONE).max() <= 2**-15
    assert audio.read_header(data) == (RATE, 1, RATE)
    (tmp_path / "a").write_bytes(data)
    assert torch.equal(media.read(tmp_path / "a", "audio"), waveform)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert torch.equal(media.read(pipe, "audio"), waveform)
    writer.join()


def test_empty_audio_stays_empty():
    file = sound(np.zeros(0, np.float32), format="WAV") + b"LIST\4\0\0\0abcd"
    with pytest.raises(ValueError, match="contains no samples"):
        media.read(bytes(file))


@pytest.mark.parametrize("form", ["WAV", "W64", "RF64", "AU", "CAF"])
def test_a_file_that_is_cut_says_so(form):
    waveform, told = read(sound(format=form, subtype="PCM_16")[:20_000])
    assert waveform.shape[1] < RATE and len(told) == 1
    assert told[0].startswith("the bytes: it ends before the length that its header states (1")
    assert told[0].endswith(f" of {2 * RATE + (4 if form == 'CAF' else 0)} bytes)")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_that_is_cut_says_so(subtype):
    file = sound(np.tile(TONE, 9), format="OGG", subtype=subtype)
    for part in (file[: len(file) * 2 // 3], bytes(file) + bytes(file[: len(file) * 2 // 3])):
        waveform, told = read(part)
        assert waveform.shape[1] % (9 * RATE) and told == ["the bytes: its last page is missing"]
    assert not read(file)[1]


@pytest.mark.parametrize(("form", "name", "at", "size"), [
    ("WAV", b"data", 4, struct.pack("<I", 2_000)), ("AU", None, 8, struct.pack(">I", 2_000)),
    ("CAF", b"data", 4, struct.pack(">Q", 2_004)),
])  # fmt: skip
def test_a_length_that_is_too_small_is_told(form, name, at, size):
    """As of a recorder that states the length from time to time, and was cut off."""
    waveform, told = read(with_sizes(form, (name, at, size)))
    assert waveform.shape[1] == 1_000
    assert told[0].startswith("the bytes: it holds more samples than its header states, which are not read (200")
    assert not read(sound(format="WAV") + b"LIST" + struct.pack("<I", 9_000) + bytes(9_000))[1]
    assert not read(sound(format="WAV") + b"TAG" + bytes(125))[1]


def test_aiff_with_the_size_of_no_samples():
    file = with_sizes("AIFF", (b"SSND", 4, struct.pack(">I", 8)))
    assert read(file)[0].shape == (1, RATE)


def test_mp3_files_that_were_joined_are_read_to_the_end():
    loud = np.random.default_rng(0).uniform(-0.3, 0.3, 100_000).astype(np.float32)
    one, two = (bytes(sound(part, 44_100, format="MP3")) for part in (loud, loud[:50_000]))
    first = lengths._frame(two, 0)[0]
    for file in (one + two, one + b"TAG" + bytes(125) + b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + two, one + two[first:]):
        waveform, told = read(file)
        assert abs(waveform.shape[1] - 150_000) <= 2 * 1152 and not told
    at = max(one.find(b"Xing"), one.find(b"Info")) + 8
    waveform, told = read(put(bytearray(one), at, struct.pack(">I", 9)))
    assert abs(waveform.shape[1] - 100_000) <= 2 * 1152 and not told
    assert read(b"ID3\4\0\0\x7f\x7f\x7f\x7f" + one)[0].shape[1] >= 100_000
    for damaged in (b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(99), b"ID3", b"\xff\xfb"):
        with pytest.raises(ValueError, match="cannot be read as audio: Error opening"):
            read(damaged)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_read_to_its_last_stream(subtype):
    parts = [sound(TONE * gain, format="OGG", subtype=subtype) for gain in (1, 0.5, 0.25)]
    alone = torch.cat([read(part)[0] for part in parts], 1)
    chain, told = read(b"".join(map(bytes, parts)))
    assert not told and chain.shape == (1, 3 * RATE) and torch.equal(chain, alone)
    other = sound(np.stack([TONE, TONE], 1), 24_000 if subtype == "OPUS" else 32_000, format="OGG", subtype=subtype)
    mixed, told = read(bytes(parts[0]) + bytes(other))
    assert abs(mixed.shape[1] - RATE * (1 + RATE / (24_000 if subtype == "OPUS" else 32_000))) <= 1
    assert "2 channels are averaged to 1" in told[0]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\0\x0a" + bytes(10)])
def test_mp3_of_variable_rate_without_a_frame_count(channels, rate, tag):
    """libsndfile takes the rate of the first frame for all: a loud start makes it stop early."""
    loud = np.random.default_rng(0).uniform(-0.5, 0.5, (rate, channels))
    samples = np.concatenate([loud, np.zeros((5 * rate, channels))]).astype(np.float32)
    file = bytes(sound(samples, rate, format="MP3", bitrate_mode="VARIABLE"))
    counted, _ = read(file)
    length, *_ = lengths._frame(file, 0)
    assert file[:60].find(b"Xing") > 0
    with soundfile.SoundFile(io.BytesIO(file[length:])) as plain:
        assert plain.frames < 4 * rate
    waveform, told = read(tag + file[length:] + b"TAG" + bytes(125))
    assert not told and counted.shape == (channels, 6 * rate) and 0 <= waveform.shape[1] - 6 * rate <= 3 * 1152


def test_lengths_that_are_claimed_do_not_allocate():
    flac = sound(format="FLAC")
    flac[21] |= 0x0F  # 2**36 − 1 samples
    with pytest.raises(ValueError, match="at most 268435456 samples per channel, got"):
        read(put(flac, 22, b"\xff" * 4))
    with (
        pytest.raises(ValueError, match="must have at most 5000 samples per channel, got more"),
        soundfile.SoundFile(io.BytesIO(piped_flac())) as file,
    ):
        audio.BLOCK, block = 4_096, audio.BLOCK
        try:
            audio.decode_audio(file, 5_000)
        finally:
            audio.BLOCK = block


def test_many_chunks_before_the_samples_do_not_hang():
    file = sound(format="WAV")
    few = file[:12] + b"junk\0\0\0\0" * 20 + file[12:]
    assert read(few)[0].shape == (1, RATE)
    with pytest.raises(ValueError, match="cannot be read as audio"):  # libsndfile looks at fewer than we do
        read(file[:12] + b"junk\0\0\0\0" * 300_000 + file[12:])
    assert lengths.repaired(io.BytesIO(b"riff" + bytes(500)))[1] is None  # chunks of W64 of size 0


# -- floats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_beyond_1_are_scaled_with_a_warning(subtype):
    waveform, told = read(sound(TONE * 4, format="WAV", subtype=subtype))
    assert told == ["the bytes: samples beyond ±1 are scaled down to a peak of 1 (the peak is 2)"]
    assert np.abs(waveform[0].numpy() - 2 * TONE).max() < 1e-6
    for gain in (2, 2 + 2**-16):  # a rounding error is not worth a word
        assert read(sound(TONE * gain, format="WAV", subtype=subtype))[1] == []
    for scale, by in ((128, 64), (65534, 32768)):
        with pytest.raises(
            ValueError, match=rf"must be in \[-1, 1\], got a peak of .*: divide them by {by} "
        ) as caught:
            read(sound(TONE * scale, format="WAV", subtype=subtype))
        assert "\n" not in str(caught.value)


def test_overshoot_of_a_lossy_format_is_clipped_in_silence_and_more_is_not():
    square = np.sign(TONE).astype(np.float32)
    with soundfile.SoundFile(io.BytesIO(sound(square * 0.99, format="OGG", subtype="VORBIS"))) as file:
        assert 1 < np.abs(file.read()).max() < 2**0.5
    waveform, told = read(sound(square * 0.99, format="OGG", subtype="VORBIS"))
    assert not told and waveform.abs().max() == 1
    _, told = read(sound(square * 3, format="OGG", subtype="VORBIS"))
    assert "scaled down" in told[0]


# -- conversions ------------------------------------------------------------------------------


def test_each_conversion_is_told_and_no_other():
    stereo = sound(np.stack([TONE, -TONE], 1), format="WAV")
    for options, told in (
        ({}, []),
        ({"sample_rate": RATE, "channels": 2}, []),
        ({"sample_rate": 8_000}, ["the bytes: 16000 Hz is resampled to 8000 Hz"]),
        ({"channels": 1}, ["the bytes: 2 channels are averaged to 1"]),
        ({"sample_rate": 24_000, "channels": 1},
         ["the bytes: 2 channels are averaged to 1, 16000 Hz is resampled to 24000 Hz"]),
    ):  # fmt: skip
        assert read(stereo, **options)[1] == told
    assert read(sound(format="WAV"), channels=2)[1] == []  # repeating a channel loses nothing


@pytest.mark.parametrize("value", [0, -1, False, True, 1.5, "16000", [], 2**31])
def test_a_rate_and_a_number_of_channels_are_checked(value):
    for name in ("sample_rate", "channels"):
        with pytest.raises(ValueError, match=f"{name} must be an integer from 1 to "):
            read(sound(format="WAV"), **{name: value})


def test_what_a_conversion_cannot_give_is_refused():
    with pytest.raises(
        ValueError, match=r"at 500000 Hz it must have at most 268435456 samples, 1048576 become 524288000"
    ):
        media.resample(torch.zeros(1, 2**20), 1000, 500_000)
    with pytest.raises(
        ValueError, match=r"the bytes: it must be resampled by at most 512 times, 16000 Hz to 2000000000"
    ):
        read(sound(format="WAV"), sample_rate=2_000_000_000)
    with pytest.raises(ValueError, match=r"must be audio \(channels, samples\), got .*\(16000, 2\); transpose it"):
        media.read(np.stack([TONE, TONE], 1), "audio")
    assert read(sound(format="WAV"), sample_rate=np.int64(RATE))[0].shape == (1, RATE)


def test_notices_are_counted_by_kind():
    tally = notices.Tally()
    with notices.collect() as found, warnings.catch_warnings():
        warnings.simplefilter("error")
        media.read(bytes(sound(TONE * 4, format="WAV", subtype="FLOAT")), "audio", sample_rate=8_000)
        other = threading.Thread(target=lambda: found.append(notices.Notice(str(notices._collected.get()))))
        other.start(), other.join()
    assert found[-1].kind == "None"  # other threads warn
    for name in ("a\n", "b"):
        tally.add(name, found[:-1])
    assert tally.lines(3) == [
        "2 of 3 items: samples beyond ±1 are scaled down to a peak of 1, first: a\\n: the peak is 2",
        "2 of 3 items: 16000 Hz is resampled to 8000 Hz, first: a\\n",
    ]
