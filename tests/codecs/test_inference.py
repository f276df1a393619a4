"""Fast inference of decoders: equal to the layers one after another, and as close to float64."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom import codecs
from tokenloom.codecs.layers import GroupNorm, inference, swish

SMALL = {"channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [1], "latents": 8, "groups": 4, "dim": 8}


def layers(before: int, after: int, bias: bool = True) -> tuple[GroupNorm, nn.Conv2d]:
    torch.manual_seed(before + after)
    norm, conv = GroupNorm(4, before), nn.Conv2d(before, after, 3, padding=1, bias=bias)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm, conv


def slow(x: Tensor, conv: nn.Conv2d, norm: GroupNorm) -> Tensor:
    """Return conv(swish(norm(x))) in float64."""
    norm, conv = copy.deepcopy(norm).double(), copy.deepcopy(conv).double()
    return conv(swish(norm(x.double())))


@torch.no_grad()
@pytest.mark.parametrize("after", [3, 8, 24])
@pytest.mark.parametrize("size", [(64, 64), (68, 128), (66, 70), (1, 5), (4, 2), (300, 16)])
def test_convolutions_in_strips_are_those_of_the_whole(monkeypatch, size, after):
    monkeypatch.setattr(inference, "STRIP", 8 * size[1] * 16)
    monkeypatch.setattr(inference, "BLOCK", 16 * 50)
    norm, conv = layers(16, after, bias=after != 8)
    x = 3 + 2 * torch.randn(2, 16, *size)
    residual = torch.randn(2, after, *size)
    wanted = slow(x, conv, norm)
    fast = inference.convolve(inference.enter(x), conv, norm)
    torch.testing.assert_close(fast.double(), wanted, rtol=0, atol=1e-5)
    plain = inference.convolve(x, conv, norm, residual)
    assert torch.equal(plain, residual + conv(swish(norm(x))))
    added = inference.convolve(inference.enter(x), conv, norm, inference.enter(residual))
    torch.testing.assert_close(added.double(), wanted + residual, rtol=0, atol=1e-5)
    torch.testing.assert_close(inference.normalize(inference.enter(x), norm), norm(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_rounding_errors_are_like_those_of_the_direct_sum():
    """At most half larger with AVX2; 2.7 times as large with AVX-512, where oneDNN's direct sums are closer."""
    norm, conv = layers(128, 128)
    x = torch.randn(1, 128, 64, 64)
    wanted = slow(x, conv, norm)
    fast, plain = inference.convolve(inference.enter(x), conv, norm), inference.convolve(x, conv, norm)
    errors = [(y - wanted).square().mean().sqrt().item() for y in (fast, plain)]
    assert errors[0] < 4 * errors[1] and errors[0] < 5e-7


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (32, 33)])
def test_upsampling_takes_four_products_of_nine(size):
    _, conv = layers(8, 12)
    x = torch.randn(2, 8, *size)
    wanted = copy.deepcopy(conv).double()(F.interpolate(x.double(), scale_factor=2.0, mode="nearest"))
    for given in (x, inference.enter(x)):
        torch.testing.assert_close(inference.upsample(given, conv).double(), wanted, rtol=0, atol=1e-6)


@torch.no_grad()
def test_norms_of_distant_values_lose_no_digits():
    """Squares around zero would leave no digit of a spread of 1 around 10⁴."""
    norm, x = GroupNorm(4, 16), 1e4 + torch.randn(1, 16, 32, 32)
    wanted = copy.deepcopy(norm).double()(x.double())
    torch.testing.assert_close(inference.normalize(inference.enter(x), norm).double(), wanted, rtol=0, atol=3e-3)


@pytest.mark.parametrize("name", ["image/taming", "image/magvit2"])
def test_decoders_enter_and_encoders_do_not(monkeypatch, name):
    sizes = (
        SMALL | {"codebook_size": 32}
        if name == "image/taming"
        else {"channels": 32, "multipliers": [1, 2], "blocks": 1}
    )
    codec = codecs.build(name, **sizes)
    x = torch.rand(1, 3, 128, 136)
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            fast = codec.synthesize(latents := codec._embed(codec.encode(x.contiguous(memory_format=layout))))
        with torch.enable_grad():
            plain = codec.synthesize(latents)
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
        assert not torch.equal(fast, plain)
    strips = itertools.count()
    monkeypatch.setattr(inference, "_scale_and_shift", lambda *given: next(strips))
    codec.encode(x)
    assert next(strips) == 0


@torch.no_grad()
def test_decoders_serve_autocast_and_other_types():
    codec = codecs.build("image/taming", codebook_size=32, **SMALL)
    latents = torch.randn(1, 8, 32, 32)
    plain = codec.synthesize(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(codec.synthesize(latents).float(), plain, rtol=0, atol=0.1)
    wide = copy.deepcopy(codec.decoder).double()(latents.double())
    torch.testing.assert_close((wide + 1) / 2, plain.double(), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_feature_maps_of_encoders_are_not_copied(monkeypatch):
    """They have not entered, which is told from their layout."""
    norm, conv = layers(16, 8)
    x = torch.randn(1, 16, 64, 64)
    expected = conv(swish(norm(x)))
    monkeypatch.setattr(inference, "enter", None)
    assert torch.equal(inference.convolve(x, conv, norm), expected)
