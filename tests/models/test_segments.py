"""Segments from user input to codes in few batches, and back to signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.codecs import one_line, structured, tiny

from tokenloom.codecs import Codes, Modality, media
from tokenloom.models.vocabulary import Channel, Vocabulary, segments

IMAGE, SOUND = torch.zeros(3, 4, 5), torch.zeros(1, 7)


@pytest.mark.parametrize(
    ("segment", "modality"),
    [
        ("a.png", Modality.TEXT), (Path("a.png"), Modality.IMAGE), (Path("a.flac"), Modality.AUDIO),
        (Image.new("RGB", (2, 2)), Modality.IMAGE), (IMAGE, Modality.IMAGE), (SOUND, Modality.AUDIO),
        (IMAGE.numpy(), Modality.IMAGE), (SOUND.numpy(), Modality.AUDIO),
    ],
)  # fmt: skip
def test_the_type_of_a_segment_tells_its_modality(segment, modality):
    assert segments.modality(segment) is modality


@pytest.mark.parametrize(
    ("segment", "told"),
    [
        (torch.zeros(2, 3, 4, 5), r"got Tensor \(2, 3, 4, 5\)"), (torch.zeros(3), r"got Tensor \(3,\)"),
        (np.zeros(3), r"got ndarray \(3,\)"), (3, "got int"), (b"text", "got bytes"), ([SOUND], "got list"),
    ],
)  # fmt: skip
def test_other_types_are_refused(segment, told):
    with pytest.raises(ValueError, match=told) as error:
        segments.modality(segment)
    assert one_line(error)


def test_signals_are_read_as_the_codec_needs_them(tmp_path):
    picture, sound = structured(tiny("image/fsq"), (6, 9))[0], structured(tiny("audio/rvq"), (400,))[0]
    for given in ("text", picture, sound):
        assert segments.signal(given, tiny("image/fsq")) is given
    array = (picture.movedim(0, -1).numpy() * 255).round().astype(np.uint8)
    expected = torch.from_numpy(array).movedim(-1, 0) / 255
    for given in (array, Image.fromarray(array)):
        torch.testing.assert_close(segments.signal(given, tiny("image/fsq")), expected)
    media.write(sound.repeat(2, 1), tmp_path / "x.flac", sample_rate=16_000)
    with pytest.warns(UserWarning):
        read = segments.signal(tmp_path / "x.flac", tiny("audio/rvq"))
    assert read.shape == (1, 200)


def test_a_resized_image_keeps_its_colors():
    x = torch.zeros(3, 8, 12)
    x[1], x[2, :, 6:] = 0.25, 1.0
    y = segments.resize(x, (20, 30))
    assert y.shape == (3, 20, 30) and y.min() == 0 and y.max() == 1  # bicubic alone would overshoot at the edge
    torch.testing.assert_close(y[1], torch.full((20, 30), 0.25))
    assert y[2, :, :12].max() < 0.1 and y[2, :, 18:].min() > 0.9
    stripes = segments.resize(torch.tensor([0.0, 1.0, 0.0]).repeat(3, 60, 20), (20, 20))
    assert (stripes[:, 3:-3, 3:-3] - 1 / 3).abs().max() < 0.02, "stripes of a pixel shrink to grey: no aliasing"


def channels() -> dict[str, Channel]:
    made = [
        Channel("said", tiny("text/bytes")),
        Channel("seen", tiny("image/fsq")),
        Channel("tiles", tiny("image/flex")),
        Channel("heard", tiny("audio/rvq"), 2, "delay"),
    ]
    return {channel.name: channel for channel in made}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("said", [0, 70]), ("seen", [(1, 127), (128, 9)]), ("tiles", [(7, 130)]), ("heard", [(16_384,)])],
)
def test_the_length_of_a_segment_is_known_before_it_is_one(name, sizes):
    vocabulary = Vocabulary(list(channels().values()), longest=8192)
    channel = vocabulary.channels[name]
    for x in [["é" * n for n in sizes]] if name == "said" else [structured(channel.codec, size) for size in sizes]:
        codes = channel.encode(x)
        assert segments.length(channel.codec, codes) == [len(ids) for ids in vocabulary.segment(name, codes)]


def batches_of(monkeypatch, channel: Channel, name: str) -> list[int]:
    """Record the sizes of the batches that a channel's codec encodes or decodes."""
    seen, original = [], getattr(channel.codec, name)
    monkeypatch.setattr(channel.codec, name, lambda x, *more: seen.append(len(x)) or original(x, *more))
    return seen


def test_signals_of_a_channel_and_shape_are_encoded_together(monkeypatch):
    by_name = channels()
    said, seen, heard = (by_name[name] for name in ("said", "seen", "heard"))
    pictures = [structured(seen.codec, size, i)[0] for i, size in enumerate(((20, 30), (30, 20), (20, 30)))]
    sound = structured(heard.codec, (99,))[0]
    inputs = {
        "a": (seen, pictures[0]), "b": (said, "a text"), "c": (heard, sound), "d": (seen, pictures[1]),
        "e": (seen, pictures[2]), "f": (said, "a line"),
    }  # fmt: skip
    alone = {key: channel.encode([x] if isinstance(x, str) else x[None]) for key, (channel, x) in inputs.items()}
    calls = {channel.name: batches_of(monkeypatch, channel, "encode") for channel in (said, seen, heard)}
    found = segments.encode(inputs)
    assert calls == {"said": [2], "seen": [2, 1], "heard": [1]}
    assert found == alone and list(found) == list(inputs)


@pytest.mark.parametrize(("most", "decoded"), [((), [32, 1, 1]), ((2,), [2] * 16 + [1, 1])])
def test_items_of_a_size_are_decoded_together_up_to_a_number(most, decoded, monkeypatch):
    channel = channels()["seen"]
    sizes = [(20, 30)] * 5 + [(9, 31)] + [(20, 30)] * 28
    items = [Codes(torch.full((1, 1, *channel.codec.spec.grid(size)), i), torch.tensor([size]))
             for i, size in enumerate(sizes)]  # fmt: skip
    alone = [channel.codec.decode(item)[0] for item in items]
    seen = batches_of(monkeypatch, channel, "decode")
    found = segments.decode(channel.codec, items, *most)
    assert seen == decoded
    for x, y in zip(found, alone, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)
        assert x.untyped_storage().nbytes() == 4 * x.numel(), "it does not hold its batch"


def test_texts_of_any_length_and_items_of_several_sizes_are_decoded(monkeypatch):
    said, heard = (channels()[name] for name in ("said", "heard"))
    texts = ["a", "", "naïve café"]
    seen = batches_of(monkeypatch, said, "decode")
    assert segments.decode(said.codec, [said.encode([text]) for text in texts]) == texts and seen == [3]
    sounds = [heard.encode(structured(heard.codec, (n,))) for n in (60, 7, 60)]
    assert [tuple(x.shape) for x in segments.decode(heard.codec, sounds)] == [(1, 60), (1, 7), (1, 60)]
    assert segments.decode(said.codec, []) == []


def test_documents_are_decoded_in_common_batches(monkeypatch):
    said, seen = (channels()[name] for name in ("said", "seen"))
    a, b, picture = said.encode(["a"]), said.encode(["bc"]), seen.encode(structured(seen.codec, (9, 8)))
    calls = batches_of(monkeypatch, said, "decode")
    found = segments.decode_rows(
        [[("said", a), ("seen", picture), (None, "free")], [], [("said", b)]], {"said": said.codec}
    )
    assert found == [["a", None, None], [], ["bc"]] and calls == [2]
