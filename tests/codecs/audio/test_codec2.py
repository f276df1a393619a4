"""Codec 2 against its library, and its own packing of bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenloom import codecs
from tokenloom.codecs import media
from tokenloom.codecs.audio.codec2 import DELAYS
from tokenloom.codecs.types import Codes

pycodec2 = pytest.importorskip("pycodec2")


def voice(samples: int) -> torch.Tensor:
    """Return (1, 1, samples) at 8 kHz: a voiced sound of 120 Hz whose loudness changes."""
    t = torch.arange(samples) / 8000
    harmonics = sum(torch.sin(2 * torch.pi * 120 * k * t) / k for k in range(1, 20))
    return (0.2 * harmonics * (0.5 + 0.5 * torch.sin(2 * torch.pi * 3 * t)))[None, None].clamp(-1, 1)


@pytest.mark.parametrize("mode", DELAYS)
def test_bits_are_those_of_the_library(mode):
    x = voice(1_000)
    codes = codecs.build("audio/codec2").encode(x, mode)
    data = bytes(codes.indices[0, 0].tolist())
    encoder = pycodec2.Codec2(mode)
    length, width = encoder.samples_per_frame(), encoder.bits_per_frame()
    count = -(-(1_000 + DELAYS[mode]) // length)
    pcm = np.pad(media.to_int16(x[0, 0]).numpy(), (0, count * length - 1_000))
    bits = [np.unpackbits(np.frombuffer(encoder.encode(pcm[i * length :][:length]), np.uint8)) for i in range(count)]
    assert data[0] == list(DELAYS).index(mode)
    assert data[1:] == np.packbits(np.concatenate([row[:width] for row in bits])).tobytes()
    assert len(data) == 1 + -(-count * width // 8)


def test_ten_seconds_have_the_rate_of_the_mode():
    codec, x = codecs.build("audio/codec2"), voice(80_000)
    for mode in (700, 1300, 3200):
        assert int(codec.encode(x, mode).lengths[0]) * 8 / 10 == pytest.approx(mode, rel=0.02)


def test_the_sound_repeats_and_is_not_late():
    """The library itself draws other phases at each call, and is late by DELAYS."""
    codec, x = codecs.build("audio/codec2"), voice(16_000)
    x[..., :8_000] = 0
    codes = codec.encode(x, 3200)
    y = codec.decode(codes)
    assert torch.equal(y, codec.decode(codes)) and y.shape == x.shape
    loud = (y[0, 0].abs() > 0.05).nonzero()[0].item()
    assert 7_900 <= loud <= 8_300


def test_other_bytes_are_refused():
    codec = codecs.build("audio/codec2")
    good = codec.encode(voice(500), 1300).indices[0, 0]
    padded = good.clone()
    padded[-1] |= 1
    for bad in (torch.tensor([7]), good[:-1], torch.cat([good, good[:1]]), padded):
        with pytest.raises(ValueError, match="audio/codec2"):
            codec.decode(Codes(bad[None, None], torch.tensor([[500]]), torch.tensor([len(bad)])))
