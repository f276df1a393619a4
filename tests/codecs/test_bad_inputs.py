"""Invalid input raises a ValueError of one line, before any library sees it."""

from __future__ import annotations

import math

import pytest
import torch
from support.codecs import MIDDLE, one_line, signals, structured

from tokenloom import codecs
from tokenloom.codecs import Codes, Modality, validate


def bad_signals(codec):
    if codec.spec.modality is Modality.TEXT:
        return {
            "str": "hello", "empty": [], "number": [3], "none": None, "bytes": [b"a"], "tensor": torch.zeros(1, 3),
            "surrogate": ["ok", "a\ud800b"], "nested": [["a"]],
        }  # fmt: skip
    size = {Modality.IMAGE: (9, 8), Modality.AUDIO: (64,)}[codec.spec.modality]
    good = torch.full((2, codec.spec.channels, *size), 0.25)
    broken = {k: good.clone() for k in ("nan", "inf", "-inf", "high", "low")}
    for key, value in {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "high": 1.001, "low": -1.001}.items():
        broken[key].view(-1)[5] = value
    zero = {f"axis {axis}": good.narrow(axis, 0, 0) for axis in range(2, good.ndim)}
    return {
        **broken, **zero, "rank low": good[0], "rank high": good[None],
        "channels": good[:, :1].repeat(1, 5, *[1] * len(size)), "uint8": (good * 255).to(torch.uint8),
        "float64": good.double(), "half": good.half(), "bfloat16": good.bfloat16(),
        "bool": good > 0, "complex": good.to(torch.complex64), "scalar": torch.tensor(0.5), "empty": good[:0],
        "no channels": good[:, :0], "numpy": good.numpy(), "list": [good[0], good[1]], "none": None, "str": "photo.png",
    }  # fmt: skip


def test_bad_signals_are_one_line(codec):
    for what, x in bad_signals(codec).items():
        for call in (codec.encode, codec.compress):
            with pytest.raises(ValueError) as error:
                call(x)
            assert one_line(error), what
            assert not isinstance(error.value, codecs.BitstreamError), what


def test_bad_settings_are_one_line(codec):
    x = structured(codec, MIDDLE[codec.spec.modality])
    for setting in (
        True,
        False,
        -3,
        10**9,
        "unknown",
        math.nan,
        math.inf,
        (1, 2),
        [1],
        {},
        object(),
        torch.tensor(1),
        b"1",
    ):
        with pytest.raises(ValueError) as error:
            codec.encode(x, setting)
        assert one_line(error), setting


def bad_codes(codec):
    good = codec.encode(signals(codec, MIDDLE[codec.spec.modality]))
    indices, sizes, lengths = good.indices, good.sizes, good.lengths

    def changed(value):
        other = indices.clone()
        other[(0, -1, *[0] * (other.ndim - 2))] = value
        return other

    cases = {
        "a tensor": indices, "none": None, "a tuple": (indices, sizes),
        "float indices": Codes(indices.float(), sizes, lengths),
        "int32 indices": Codes(indices.int(), sizes, lengths),
        "float sizes": Codes(indices, sizes.float(), lengths),
        "numpy indices": Codes(indices.numpy(), sizes, lengths),
        "list sizes": Codes(indices, sizes.tolist(), lengths),
        "no sizes": Codes(indices, None, lengths),
        "negative": Codes(changed(-2), sizes, lengths),
        "out of range": Codes(changed(max(codec.spec.codebook_sizes)), sizes, lengths),
        "far out of range": Codes(changed(2**62), sizes, lengths),
        "rank low": Codes(indices[:, 0], sizes, lengths),
        "rank high": Codes(indices[None], sizes, lengths),
        "rank one": Codes(indices.flatten(), sizes, lengths),
        "rank zero": Codes(indices.flatten()[0], sizes, lengths),
        "too many quantizers": Codes(indices.repeat_interleave(9, 1), sizes, lengths),
        "no quantizers": Codes(indices[:, :0], sizes, lengths),
        "empty": Codes(indices[:0], sizes[:0], None if lengths is None else lengths[:0]),
        "sizes of fewer": Codes(indices, sizes[:1], lengths),
        "sizes of more axes": Codes(indices, torch.cat([sizes, sizes, sizes], 1), lengths),
        "stray side": Codes(indices, sizes, lengths, {"scale": torch.ones(2, 1)}),
        "negative sizes": Codes(indices, -sizes, lengths),
    }  # fmt: skip
    if codec.spec.stride:
        cases |= {
            "wrong grid": Codes(indices[..., 1:], sizes),
            "wrong sizes": Codes(indices, sizes * 9),
            "zero sizes": Codes(indices, sizes * 0),
            "huge sizes": Codes(indices, sizes * 0 + 2**40),
            "lengths": Codes(indices, sizes, torch.tensor([1, 1])),
            "a hole at one position": Codes(changed(-1), sizes),
        }
    else:
        cases |= {
            "no lengths": Codes(indices, sizes),
            "long lengths": Codes(indices, sizes, lengths + indices.shape[2]),
            "negative lengths": Codes(indices, sizes, -lengths),
            "float lengths": Codes(indices, sizes, lengths.float()),
            "lengths of fewer": Codes(indices, sizes, lengths[:1]),
        }
    return cases


def test_bad_codes_are_one_line(codec):
    for what, codes in bad_codes(codec).items():
        with pytest.raises(ValueError) as error:
            codec.decode(codes)
        assert one_line(error), what


def test_damaged_file_bytes_are_one_line(codec):
    """Damaged codes of a codec without `spec.total` decode, or raise an error of one line."""
    if codec.spec.total:
        pytest.skip("every index array decodes")
    codes = codec.encode(structured(codec, (9, 8) if codec.spec.modality is Modality.IMAGE else (400,)))
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(20 if codec.name == "audio/codec2" else 100):  # Codec 2 starts a process for each
        indices = codes.indices.clone()
        where = torch.randint(indices.shape[-1], (3,), generator=generator)
        indices[0, 0, where] = torch.randint(256, (3,), generator=generator)
        try:
            y = codec.decode(Codes(indices, codes.sizes, codes.lengths))
            assert y.shape[2:] == tuple(codes.sizes[0].tolist()) and torch.isfinite(y).all()
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused


def test_validate_sees_input_before_the_codec(codec, monkeypatch):
    def reached(*_):
        raise AssertionError("the codec saw unchecked input")

    monkeypatch.setattr(type(codec), "_encode", reached)
    for x in bad_signals(codec).values():
        with pytest.raises(ValueError):
            codec.encode(x)
    if codec.spec.modality is not Modality.TEXT:
        channels = codec.spec.channels
        shape = (1, channels, 2**16, 2**12) if codec.spec.modality is Modality.IMAGE else (1, channels, 2**29)
        with pytest.raises(ValueError, match="at most") as error:
            validate.signal(torch.zeros(1).expand(shape), codec)
        assert one_line(error)
