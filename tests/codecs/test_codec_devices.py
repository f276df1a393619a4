"""Codecs compute on the device that they are on: every family, and the pieces that codecs are made of."""

from __future__ import annotations

import copy

import pytest
import torch
from support import second_device
from support.codecs import signals, tiny
from support.quantizers import latents
from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs import Modality, Target, rate
from tokenloom.codecs.codec import LatentCodec
from tokenloom.codecs.quantizers import BSQ, FSQ, LFQ, ResidualVQ

SIZES = {Modality.IMAGE: (19, 22), Modality.AUDIO: (601,), Modality.TEXT: (30,)}
"""Sizes of small signals that no stride divides."""


def place(codes):
    """Return the devices of the tensors of codes."""
    tensors = [codes.indices, codes.sizes, *codes.side.values()]
    return {x.device for x in tensors + ([] if codes.lengths is None else [codes.lengths])}


def same(a, b, device):
    """Return whether decoded signals agree, and the first is on the device."""
    if isinstance(a, list):
        return a == b
    return a.device == device and torch.allclose(a.cpu(), b.cpu(), rtol=0, atol=1e-5)


def test_every_codec_computes_on_its_device(codec):
    x = signals(codec, SIZES[codec.spec.modality])
    codes = codec.encode(x)
    decoded, data = codec.decode(codes), codec.compress(x)
    with second_device.active() as second:
        moved = copy.deepcopy(codec).to(second)
        assert moved.device == second and codec.device.type == "cpu" and moved.fingerprint == codec.fingerprint
        for given in (x, x.to(second)) if isinstance(x, Tensor) else (x,):
            assert place(found := moved.encode(given)) == {second} and found.to("cpu") == codes
        assert same(moved.decode(codes), decoded, second) and same(moved.decode(found), decoded, second)
        assert same(moved.decompress(data), decoded, second)
        assert codecs.bitstream.write(moved, found) == data
        assert same(codec.decode(found), decoded, torch.device("cpu"))
        if isinstance(codec, LatentCodec) and isinstance(moved, LatentCodec):
            assert same(moved.embed(codes), codec.embed(codes), second)
        assert torch.equal(rate.nominal(codec.spec, found), rate.nominal(codec.spec, codes))


@pytest.mark.parametrize("name", ["image/rvq", "audio/rvq", "image/ntc"])
def test_counts_and_context_on_a_device_give_the_same_bytes(name):
    codec = copy.deepcopy(tiny(name))
    codec.counts += torch.arange(codec.counts.shape[1]) % 7
    x = signals(codec, SIZES[codec.spec.modality])
    data, bits = codec.compress(x), rate.entropy(codec, codec.encode(x))
    with second_device.active() as second:
        moved = copy.deepcopy(codec).to(second)
        assert moved.compress(x) == data and torch.equal(rate.entropy(moved, moved.encode(x)), bits)
        assert torch.equal(codecs.bitstream.read(moved, data).indices, codec.encode(x).indices)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("image/rvq", Target(bits_per_pixel=0.6)),
        ("image/rvq", Target(psnr=5.0)),
        ("image/flex", Target(slope=0.02)),
        ("image/jpeg", Target(psnr=25.0)),
        ("audio/rvq", Target(kbps=30.0)),
    ],
)
def test_targets_on_a_device(name, target):
    codec = tiny(name)
    x = signals(codec, (50, 60) if name == "image/flex" else SIZES[codec.spec.modality])
    with second_device.active() as second:
        found = copy.deepcopy(codec).to(second).encode(x, target)
    assert place(found) == {second}
    expected = codec.encode(x, target)
    with second_device.active():
        assert found.to("cpu") == expected


def test_loading_to_a_device():
    with second_device.active() as second:
        for codec in (
            codecs.load("digits-rvq", device=second), codecs.load("image/png", device="elsewhere"),
            codecs.build("image/fsq", device="auto"), codecs.load({"name": "image/png"}, device="elsewhere:0"),
        ):  # fmt: skip
            assert codec.device == second
            assert {tensor.device for tensor in codec.state_dict().values()} <= {second}
        assert codecs.load("digits-rvq").device.type == "cpu"


@pytest.mark.parametrize(
    "quantizer",
    [
        lambda: FSQ([5, 4, 3]),
        lambda: LFQ(6),
        lambda: BSQ(6),
        lambda: ResidualVQ(16, 6, 3, decay=0.8),
    ],
)  # fmt: skip
def test_quantizers_train_on_a_device(quantizer):
    with second_device.active() as second:
        layer = quantizer().to(second).train()
        x = latents(3 if isinstance(layer, FSQ) else 6).to(second).requires_grad_()
        for _ in range(3):
            quantized = layer.quantize(x)
        (quantized.latents.sum() + quantized.loss).backward()
        assert x.grad.device == quantized.latents.device == second
        index = layer.eval().search(x.detach())
        assert index.device == layer.lookup(index).device == second


@pytest.mark.parametrize("name", ["image/vqgan", "image/bsq", "image/ntc", "image/flex", "image/taming", "audio/rvq"])
def test_gradients_on_a_device(name):
    codec = copy.deepcopy(tiny(name)).train()
    x = signals(codec, (48, 48) if codec.spec.modality is Modality.IMAGE else (640,))
    with second_device.active() as second:
        moved = codec.to(second)
        output, loss = moved.reconstruct(x.to(second))
        (output.mean() + loss).backward()
        assert {p.grad.device for p in moved.parameters() if p.grad is not None} == {second}


def test_the_second_device_refuses_what_a_gpu_refuses():
    with second_device.active() as second:
        a = torch.ones(3, device=second)
        assert (a + 1).device == (a * torch.tensor(2.0)).device == a[torch.tensor([0, 2])].device == second
        for wrong in (
            lambda: a + torch.ones(3), lambda: torch.cat([a, torch.ones(1)]), lambda: torch.ones(3)[a.long()],
            lambda: torch.randn(3, device=second, generator=torch.Generator()), a.double, a.numpy,
        ):  # fmt: skip
            with pytest.raises((RuntimeError, TypeError)):
                wrong()
