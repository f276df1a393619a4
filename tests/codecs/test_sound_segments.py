"""Files of segments: sounds of any length in constant memory, with random access and salvage."""

from __future__ import annotations

import io
import math
import re
import warnings

import numpy as np
import pytest
import soundfile
import torch
from support.cli import refuse, succeed
from support.codecs import TINY, signals, tiny
from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs import BitstreamError, SegmentReader, bitstream, media
from tokenloom.codecs.bitstream import SegmentWriter, records

SAMPLES, SECONDS = 5003, 0.05
"""Length of the sound, and of its segments: 400 samples."""


@pytest.fixture(scope="module")
def rvq() -> codecs.Codec:
    return tiny("audio/rvq")


@pytest.fixture(scope="module")
def sound(rvq) -> Tensor:
    return signals(rvq, (SAMPLES,), batch=1)


def written(codec: codecs.Codec, sound: Tensor, size: int = 333) -> bytes:
    file, encoder = io.BytesIO(), codec.stream_encoder()
    writer = SegmentWriter(file, codec, SECONDS)
    for piece in sound.split(size, -1):
        writer.write(encoder.push(piece))
    writer.write(encoder.close())
    writer.close()
    assert (writer.bytes, writer.samples) == (len(file.getvalue()), sound.shape[-1])
    return file.getvalue()


def joined(reader: SegmentReader, codec: codecs.Codec, *place: int) -> Tensor:
    return torch.cat(list(codecs.decompress_stream(reader, codec, *place)), -1)


def test_segments_hold_the_codes_and_the_sound_of_the_whole(rvq, sound):
    data, codes = written(rvq, sound), rvq.encode(sound)
    assert data == written(rvq, sound, 5003) == written(rvq, sound, 1000)
    reader = SegmentReader(data)
    assert (len(reader.segments), reader.samples, reader.lost) == (13, SAMPLES, [])
    assert bitstream.read(rvq, [data]) == codes
    assert torch.equal(rvq.decompress([data]), rvq.decode(codes))
    torch.testing.assert_close(joined(reader, rvq), rvq.decode(codes)[0], rtol=0, atol=1e-6)
    mixed = rvq.decompress([data, rvq.compress(sound[..., :100])[0]])
    assert mixed.shape == (2, 1, SAMPLES)


def test_short_sounds_are_plain_containers(rvq, sound):
    short = sound[..., :2400]  # six segments
    assert written(rvq, short) == rvq.compress(short)[0]
    assert bitstream.is_segmented(written(rvq, sound[..., :2409]))
    reader = SegmentReader(rvq.compress(short)[0])
    torch.testing.assert_close(joined(reader, rvq, 700, 710), rvq.decode(rvq.encode(short))[0, :, 700:710])


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (399, 401), (1234, 2777), (4990, None), (0, 9999), (5002, 5003)])
def test_random_access(rvq, sound, start, stop):
    whole = rvq.decode(rvq.encode(sound))[0]
    data = bytearray(written(rvq, sound))
    reader = SegmentReader(bytes(data))
    torch.testing.assert_close(joined(reader, rvq, start, stop), whole[:, start:stop], rtol=0, atol=1e-6)
    before = [s for s in reader.segments if s.first + 400 <= start - 8 * rvq.encoder_reach[0][0] - 400]
    for segment in before:  # they are not read
        data[segment.offset + 20] ^= 1
    torch.testing.assert_close(joined(SegmentReader(bytes(data)), rvq, start, stop), whole[:, start:stop])


def test_a_damaged_segment_costs_that_segment(rvq, sound):
    whole, data = rvq.decode(rvq.encode(sound))[0], bytearray(written(rvq, sound))
    third = SegmentReader(bytes(data)).segments[3]
    data[third.offset + 20] ^= 5
    with pytest.raises(BitstreamError, match=r"^the segment at 0.15 s is damaged: .* CRC-32 does not match$"):
        joined(SegmentReader(bytes(data)), rvq)
    reader = SegmentReader(bytes(data), salvage=True)
    y = joined(reader, rvq)
    assert reader.lost == ["the segment at 0.15 s is damaged: the container is damaged: its CRC-32 does not match"]
    assert not y[:, 1200:1600].any() and y.shape == whole.shape
    ((before, _),) = rvq.decoder_reach
    away = [*range(1200), *range(1600 + 8 * before, SAMPLES)]
    torch.testing.assert_close(y[:, away], whole[:, away], rtol=0, atol=1e-6)


def test_damaged_heads_and_missing_bytes_are_found_around(rvq, sound):
    data = written(rvq, sound)
    third = SegmentReader(data).segments[3]
    start = third.offset - records.RECORD.size - 4
    for broken in (data[:start] + b"x" + data[start + 1 :], data[:start] + data[third.offset + third.length :]):
        with pytest.raises(BitstreamError, match=r"head of segment \d+ is damaged"):
            SegmentReader(broken)
        reader = SegmentReader(broken, salvage=True)
        y = joined(reader, rvq)
        assert y.shape[1] == SAMPLES and not y[:, 1200:1600].any() and y[:, 1000:1200].any()
        assert [re.sub(r"\d+", "n", line) for line in reader.lost] == ["the head of segment n is damaged"]


def test_a_cut_file_decodes_up_to_the_cut(rvq, sound):
    whole, data = rvq.decode(rvq.encode(sound))[0], written(rvq, sound)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            SegmentReader(data[:length])
    for length in [*range(0, len(data), 97), len(data) - 1]:
        try:
            y = joined(SegmentReader(data[:length], salvage=True), rvq)
        except BitstreamError as error:
            assert length < 200 and "\n" not in str(error)
            continue
        assert y.shape[1] in (*range(0, SAMPLES, 400), SAMPLES)
        torch.testing.assert_close(y, whole[:, : y.shape[1]], rtol=0, atol=1e-6)


def test_forged_files_are_refused(rvq, sound):
    data = written(rvq, sound)
    far = records.RECORD.pack(records.SEGMENT, 2**40, 50)
    forged = data[: records.HEAD] + records.checked(far) + rvq.compress(sound[..., :8])[0].ljust(50, b"\0")
    with pytest.raises(BitstreamError, match="bytes cannot hold the samples"):
        joined(SegmentReader(forged, salvage=True), rvq)
    head = data[: records.HEAD]
    nested = head + records.checked(records.RECORD.pack(records.SEGMENT, 0, len(head))) + head
    reader = SegmentReader(nested, salvage=True)
    assert not list(reader.pieces(rvq)) and "must not have segments itself" in reader.lost[1]
    with pytest.raises(ValueError, match="segments are for codecs of sound"):
        SegmentWriter(io.BytesIO(), tiny("image/fsq"))


def test_another_codec_is_an_error_even_for_salvage(rvq, sound):
    other = codecs.build("audio/rvq", **TINY["audio/rvq"])
    for data in (written(rvq, sound), rvq.compress(sound)[0]):
        with pytest.raises(BitstreamError, match=r"^the container was written by the codec \w+, not by audio/rvq \w+$"):
            joined(SegmentReader(data, salvage=True), other)
    opus = tiny("audio/opus")
    with pytest.raises(ValueError, match="cannot be streamed"):
        codecs.decompress_stream(SegmentReader(opus.compress(signals(opus, (900,), batch=1))[0]), opus)


def test_overlapping_segments_take_linear_time(rvq, sound):
    data = written(rvq, sound)
    record = records.RECORD.size + 4
    head = b"".join(
        records.checked(records.RECORD.pack(records.SEGMENT, i, (20_000 - i - 1) * record)) for i in range(20_000)
    )
    reader = SegmentReader(data[: records.HEAD] + head, salvage=True)
    assert len(reader.segments) == 1 and "tlm" not in repr(reader)


def test_writers_refuse_what_is_no_sound(rvq, sound):
    with pytest.raises(ValueError, match="at least 1 frame, got none"):
        SegmentWriter(io.BytesIO(), rvq).close()
    with pytest.raises(ValueError, match="one sound, got codes of 2"):
        SegmentWriter(io.BytesIO(), rvq).write(rvq.encode(sound.expand(2, -1, -1)))


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def long(tmp_path, monkeypatch):
    """Return a WAV file that is long, at 16 kHz in stereo, and what `read` makes of it at 8 kHz in mono."""
    monkeypatch.setattr(media.pieces, "LONG", 0.5)
    monkeypatch.setattr(media.pieces, "PIECE", 1000)
    wave = signals(codecs.build("audio/flac", sample_rate=16000, channels=2), (20_001,), batch=1)[0]
    soundfile.write(tmp_path / "long.wav", wave.T.numpy(), 16000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tmp_path / "long.wav", media.read(tmp_path / "long.wav", sample_rate=8000, channels=1)


@pytest.mark.filterwarnings("ignore:.*resampled")
def test_pieces_are_those_of_the_whole(long):
    path, whole = long
    pieces = list(media.pieces.read_pieces(path, 8000, 1))
    assert len(pieces) > 10
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-6)
    with path.open("rb") as pipe:
        assert media.pieces.is_wave(pipe) and media.pieces.is_long(path)
        torch.testing.assert_close(torch.cat(list(media.pieces.read_pieces(pipe, 8000, 1)), 1), whole)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_pipes_have_the_samples_of_files(tmp_path, subtype):
    wave = np.linspace(-1, 1, 3000).reshape(-1, 2)
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype=subtype, format="WAV")
    with (tmp_path / "a.wav").open("rb") as pipe:
        found = torch.cat(list(media.pieces.read_pieces(pipe, 8000, 2)), 1)
    assert torch.equal(found, media.read(tmp_path / "a.wav"))


@pytest.mark.parametrize("peak", [1.1, 3.0])
def test_floats_beyond_one_are_scaled_as_in_the_whole(tmp_path, peak, monkeypatch):
    monkeypatch.setattr(media.pieces, "PIECE", 300)
    soundfile.write(tmp_path / "loud.wav", np.linspace(-0.7, peak, 1000), 8000, subtype="FLOAT")
    with pytest.warns(UserWarning, match="samples beyond ±1 are scaled down to a peak of 1"):
        found = torch.cat(list(media.pieces.read_pieces(tmp_path / "loud.wav", 8000, 1)), 1)
    with pytest.warns(UserWarning, match="samples beyond ±1 are scaled down to a peak of 1"):
        assert torch.equal(found, media.read(tmp_path / "loud.wav"))


@pytest.mark.parametrize(
    ("peak", "reason"), [(math.nan, "must be finite"), (math.inf, "must be finite"), (99, "scale of integers")]
)
def test_floats_that_are_no_sound_are_refused(tmp_path, peak, reason):
    soundfile.write(tmp_path / "loud.wav", np.full(1000, float(peak)), 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match=reason) as refused:
        list(media.pieces.read_pieces(tmp_path / "loud.wav", 8000, 1))
    assert str(refused.value).startswith(str(tmp_path / "loud.wav"))


def test_damaged_and_odd_pipes(tmp_path):
    (tmp_path / "bad.flac").write_bytes(b"fLaC" + bytes(60))
    with pytest.raises(ValueError, match="cannot be read as audio") as refused:
        list(media.pieces.read_pieces(tmp_path / "bad.flac", 8000, 1))
    assert str(refused.value).count("cannot be read") == 1
    soundfile.write(tmp_path / "a.wav", np.zeros(media.pieces.PIECE), 8000, subtype="PCM_16")
    data = (tmp_path / "a.wav").read_bytes()
    unknown = data[:40] + b"\xff" * 4 + data[44:] + b"\0"  # half a sample more than a piece
    (tmp_path / "b.wav").write_bytes(unknown)
    with (tmp_path / "b.wav").open("rb") as pipe:
        assert sum(piece.shape[1] for piece in media.pieces.read_pieces(pipe, 8000, 1)) == media.pieces.PIECE
    for start in (4, 40):  # sizes that a writer did not come back to; files of them are read otherwise
        (tmp_path / "c.wav").write_bytes(data[:start] + bytes(4) + data[start + 4 :])
        with (tmp_path / "c.wav").open("rb") as pipe:
            assert not media.pieces.is_wave(pipe)


@pytest.mark.filterwarnings("ignore:.*resampled")
def test_commands(long, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SegmentWriter.__init__, "__defaults__", (0.2,))
    path, wave = long
    small, back = str(tmp_path / "a.tlm"), tmp_path / "back.wav"
    out = succeed(capsys, "encode", str(path), "--codec", "digits-rvq", "-o", small)
    assert "1.25 s at 8000 Hz mono by digits-rvq" in out
    codec, data = codecs.load("digits-rvq"), (tmp_path / "a.tlm").read_bytes()
    assert bitstream.is_segmented(data)
    assert bitstream.read(codec, [data]) == codec.encode(wave[None])
    assert "1.25 s at 8000 Hz mono from" in succeed(capsys, "decode", small, "-o", str(back))
    whole = media.read(back)
    torch.testing.assert_close(whole, codec.decode(codec.encode(wave[None]))[0], rtol=0, atol=2**-14)
    succeed(capsys, "decode", small, "-o", str(back), "--start", "0.5", "--stop", "0.75", "--force")
    assert torch.equal(media.read(back), whole[:, 4000:6000])
    (tmp_path / "cut.tlm").write_bytes(data[: len(data) * 2 // 3])
    line = refuse(capsys, "decode", str(tmp_path / "cut.tlm"))
    assert line.endswith("it has no index; --salvage decodes what is left")
    assert not (tmp_path / "cut.wav").exists(), "nothing half is left"
    succeed(capsys, "decode", str(tmp_path / "cut.tlm"), "--salvage")
    cut = media.read(tmp_path / "cut.wav")
    assert torch.equal(cut, whole[:, : cut.shape[1]]) and cut.shape[1] % 1600 == 0
    late = refuse(capsys, "decode", small, "-o", str(back), "--start", "9", "--force")
    assert "must be before --stop and the end" in late
    for time in ("inf", "nan", "-1", "1e300", "soon"):
        refuse(capsys, "decode", small, "-o", str(back), "--start", time, "--force")
    assert "must be before --stop" in refuse(capsys, "decode", small, "-o", str(back), "--stop", "0", "--force")
    (tmp_path / "o.tlm").write_bytes(codecs.load("audio/opus").compress(torch.zeros(1, 1, 4800))[0])
    assert "cannot be streamed" in refuse(capsys, "decode", str(tmp_path / "o.tlm"), "--start", "0.1")
    (tmp_path / "p.tlm").write_bytes(codecs.load("image/jpeg").compress(torch.zeros(1, 3, 8, 8))[0])
    assert "--start is for audio, " in refuse(capsys, "decode", str(tmp_path / "p.tlm"), "--start", "1")
    assert "works without --decoder" in refuse(capsys, "decode", small, "--start", "1", "--decoder", "diffusion", "-f")
