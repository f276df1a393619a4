"""Codes do not change with rounding errors in float32, nor with what causes them."""

from __future__ import annotations

import copy

import pytest
import torch
from support.codecs import signals, tiny
from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs.image import ntc
from tokenloom.codecs.image.autoencoder import Autoencoder
from tokenloom.codecs.layers import exact, spans, tracing
from tokenloom.codecs.quantizers import BSQ, FSQ, LFQ, DeadZone, Quantizer, ResidualVQ

LOCAL = ["image/fsq", "image/vqgan", "image/bsq", "image/rvq", "image/ntc", "image/flex", "audio/rvq"]
ERROR = 2.0**-7
"""Rounding error of the tests, large enough that many codes are in doubt."""


def filled(quantizer: Quantizer) -> Quantizer:
    torch.manual_seed(1)
    for name, value in quantizer.named_buffers():
        if name == "codebook":
            value.normal_()
    return quantizer.eval()


QUANTIZERS = {
    "fsq": lambda: FSQ([8, 5, 5]),
    "bsq": lambda: BSQ(6),
    "lfq": lambda: LFQ(6),
    "deadzone": lambda: DeadZone((3, 9, 9)),
    "vq": lambda: filled(ResidualVQ(64, 6)),
    "sphere": lambda: filled(ResidualVQ(64, 6, normalise=True)),
    "rvq": lambda: filled(ResidualVQ(64, 6, 4)),
    "large": lambda: filled(ResidualVQ(2048, 6, 2)),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_doubt_covers_every_index_that_an_error_changes(kind):
    quantizer = QUANTIZERS[kind]()
    latents = torch.randn(4, quantizer.dim, 300, generator=torch.Generator().manual_seed(0)) * 2
    count = 3 if kind == "rvq" else None
    error = 0.02
    indices, doubt = quantizer.decide(latents, count, error)
    assert torch.equal(indices, quantizer.search(latents, count))
    assert doubt.shape == (4, 300) and 0 < doubt.float().mean() < 0.5
    changed = torch.zeros_like(doubt)
    for seed in range(40):
        push = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        moved = latents + error * push / push.norm(dim=1, keepdim=True)
        changed |= (quantizer.search(moved, count) != indices).any(1)
    assert changed.any() and not (changed & ~doubt).any()
    # most doubts are real ones, at least in a plane; a bound that is too loose would cost time
    assert doubt.sum() < 12 * changed.sum()


def with_errors(codec: codecs.Codec, seed: int) -> codecs.Codec:
    """Return a copy whose encoder errs in float32 by up to half of ERROR."""
    noisy, draw = copy.deepcopy(codec), torch.Generator().manual_seed(seed)

    def err(_module, _inputs, latents: Tensor) -> Tensor:
        if latents.dtype == torch.float64:
            return latents
        push = torch.randn(latents.shape, generator=draw)
        scale = 0.5 if codec.name == "image/ntc" else latents.norm(dim=1).amax() / 2
        return latents + ERROR * scale * push / push.norm(dim=1, keepdim=True)

    noisy.encoder.register_forward_hook(err)
    return noisy


@pytest.mark.parametrize("name", LOCAL)
def test_errors_change_no_code(name, monkeypatch):
    codec = tiny(name)
    assert codec.invariant
    x = signals(codec, (600,) if name == "audio/rvq" else (67, 90), batch=2)
    setting = codec.settings.sweep[-1]
    monkeypatch.setattr(tracing, "ROUNDING", ERROR)
    monkeypatch.setattr(ntc, "ROUNDING", ERROR)
    wanted = codec.encode(x, setting)
    for seed in range(2):
        assert with_errors(codec, seed).encode(x, setting) == wanted
    with monkeypatch.context() as patch:
        patch.setattr(exact, "settle", lambda codec, found, *_: found)
        noisy = (with_errors(codec, seed).encode(x, setting) for seed in range(5))
        assert any(codes != wanted for codes in noisy), "the errors are large enough to matter"


@pytest.mark.parametrize("name", LOCAL)
def test_doubtful_codes_are_those_of_float64(name, monkeypatch):
    codec = tiny(name)
    x = signals(codec, (600,) if name == "audio/rvq" else (64, 88), batch=2)
    twin = exact.in_float64(codec)
    assert all(weight.dtype == torch.float32 for weight in codec.parameters()), "the codec itself stays"
    setting = codec.settings.sweep[-1]
    wanted = twin.encode_indices(x.double(), setting)
    monkeypatch.setattr(tracing, "ROUNDING", 1.0)
    monkeypatch.setattr(ntc, "ROUNDING", 100.0)
    codes = codec.encode(x, setting)
    assert torch.equal(codec.indices_by_position(codes), wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in LOCAL if name != "image/flex"])
def test_one_position_has_the_latents_of_the_whole(name):
    codec = tiny(name)
    twin = exact.in_float64(copy.deepcopy(codec))  # which may not know its reach yet
    x = signals(codec, (1203,) if name == "audio/rvq" else (149, 170), batch=1)
    whole = twin.analyze(x.double())
    for place in torch.ones(whole.shape[2:]).nonzero()[::3].tolist():
        latents = twin.analyze_at(x, place)
        assert latents.dtype == torch.float64 and latents.shape == (1, whole.shape[1], *(1 for _ in place))
        torch.testing.assert_close(latents.flatten(), whole[(0, slice(None), *place)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOCAL)
def test_batches_threads_layouts_and_modes_change_no_code(name):
    codec = tiny(name)
    x = signals(codec, (600,) if name == "audio/rvq" else (67, 90), batch=7)
    whole = codec.encode(x)
    assert codecs.Codes(torch.cat([codec.encode(one).indices for one in x.split(1)]), whole.sizes).indices.equal(
        whole.indices
    )
    assert torch.cat([codec.encode(some).indices for some in x.split(2)]).equal(whole.indices)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert codec.encode(x) == whole
    finally:
        torch.set_num_threads(threads)
    layouts = [x.flip(0).flip(0).mT.contiguous().mT]
    layouts += [x.contiguous(memory_format=torch.channels_last)] if x.ndim == 4 else []
    for other in layouts:
        assert codec.encode(other) == whole
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert codec.encode(x) == whole


class Own(FSQ):
    """A quantizer that does not tell doubtful latents, as a user writes one."""

    decide = Quantizer.decide


class Named(Autoencoder):
    """A codec whose networks have names of their own."""

    def __init__(self) -> None:
        super().__init__(FSQ([8, 8]), stride=8, patch=4, widths=[8, 8], depths=[1, 1])
        self.inward, self.encoder = self.encoder, None

    def analyze(self, x: Tensor) -> Tensor:
        return self.inward(x * 2 - 1)


def test_networks_may_have_any_names():
    twin = exact.in_float64(Named())
    assert twin.analyze(torch.zeros(1, 3, 16, 16).double()).dtype == torch.float64


def test_a_quantizer_without_decide_codes_in_float32():
    codec = Autoencoder(Own([8, 8]), stride=8, patch=4, widths=[8, 8], depths=[1, 1])
    assert not codec.invariant and codec.encode(torch.zeros(1, 3, 20, 30)).indices.shape == (1, 1, 3, 4)
    assert all(kind().decides for kind in QUANTIZERS.values())


def test_published_models_keep_their_own_rounding():
    assert not tiny("image/taming").invariant and not tiny("audio/encodec").invariant


@pytest.mark.parametrize("size", [(41, 97), (97, 8), (64, 64)])
@pytest.mark.parametrize("name", ["image/fsq", "image/vqgan", "image/bsq", "image/rvq", "image/ntc"])
def test_blocks_of_a_large_picture_give_its_codes_and_its_picture(name, size, monkeypatch):
    codec = tiny(name)
    x = signals(codec, size)
    codes = codec.encode(x)
    picture = codec.decode(codes)
    monkeypatch.setattr(spans, "BLOCK", {2: 24 * 24})
    assert codec.encode(x) == codes
    torch.testing.assert_close(codec.decode(codes), picture, rtol=0, atol=1e-5)
    assert codec.working_memory((4000, 4000)) < codec.working_memory((24, 24)) + 3 * 4 * 4000**2 + 2**26
