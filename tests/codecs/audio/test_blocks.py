"""Long sounds are coded in blocks, with the codes of the whole and in bounded memory. Layers have slow twins."""

from __future__ import annotations

import pytest
import torch
from support.codecs import TINY, signals, tiny

from tokenloom import codecs
from tokenloom.codecs.audio import seanet
from tokenloom.codecs.layers import spans


def test_reach_equals_what_a_change_reaches():
    codec, stride = tiny("audio/rvq"), tiny("audio/rvq").spec.stride[0]
    ((before, after),) = codec.encoder_reach
    x = signals(codec, (40 * stride,), batch=1)
    changed = x.clone()
    changed[..., 20 * stride : 21 * stride] = -1
    frames = (codec.analyze(x) != codec.analyze(changed)).any(1)[0].nonzero()
    assert after == 0, "causal"
    assert frames.min() >= 20 and frames.max() <= 20 + before
    assert spans.reach(lambda x: x.cumsum(-1), torch.zeros(1, 1, 2), [2], [2]) is None
    shifted = spans.reach(lambda x: x.roll(-3, -1) + x.roll(1, -1), torch.zeros(1, 1, 1), [1], [1])
    assert shifted == ((1, 3),)


@pytest.mark.parametrize("samples", [800, 801, 999, 3001])
def test_blocks_give_the_codes_and_the_sound_of_the_whole(samples, monkeypatch):
    codec = tiny("audio/rvq")
    x = signals(codec, (samples,))
    codes, sound = codec.encode(x, 2), codec.decode(codec.encode(x, 2))
    monkeypatch.setattr(spans, "BLOCK", {1: 400})
    assert codec.encode(x, 2) == codes
    torch.testing.assert_close(codec.decode(codes), sound, rtol=0, atol=1e-6)


def test_an_hour_takes_the_memory_of_a_block():
    codec, hour = tiny("audio/rvq"), 3600 * 8000
    assert codec.working_memory((hour,)) - 4 * hour < 1.1 * codec.working_memory((spans.BLOCK[1],))
    endless = codecs.build("audio/rvq", **TINY["audio/rvq"], lstm=1)
    assert endless.working_memory((hour,)) > 50 * endless.working_memory((spans.BLOCK[1],))


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_transposed_convolutions_by_phase_are_the_librarys(causal, norm):
    torch.manual_seed(0)
    layer = seanet.ConvTranspose1d(6, 4, 10, 5, seanet.Layers(causal=causal, norm=norm))
    for samples in (1, 2, 37):
        x = torch.randn(3, 6, samples)
        wanted = layer.norm(layer.convtr(x))[..., layer.left : layer.left + 5 * samples]
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-5)


def test_units_leave_their_input_and_give_the_values_of_training():
    torch.manual_seed(0)
    unit = seanet.ResidualUnit(8, 2, seanet.Layers(reflect=True))
    x = torch.randn(2, 8, 50)
    before = x.clone()
    with torch.no_grad():
        y = unit(x)
    assert torch.equal(x, before) and torch.equal(y, unit(x))
