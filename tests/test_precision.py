"""Codecs and decoders compute in float32, whatever the default type is and whatever their modules are converted to."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.codecs import MIDDLE, TINY, one_line, signals, tiny

from tokenloom import codecs, models, precision
from tokenloom.codecs import Modality
from tokenloom.train import machine
from tokenloom.train.run_config import RunConfig

TYPES = [torch.float16, torch.bfloat16, torch.float64]
SMALL = {"widths": [8, 16], "depths": [1, 1]}


@pytest.fixture(params=TYPES)
def default(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


class Host(torch.nn.Module):
    def __init__(self, codec: codecs.Codec) -> None:
        super().__init__()
        self.codec, self.own = copy.deepcopy(codec), torch.nn.Linear(2, 2)


def test_a_converted_codec_computes_in_float32(codec):
    x = signals(codec, MIDDLE[codec.spec.modality])
    codes, decoded = codec.encode(x), codec.decode(codec.encode(x))
    for convert in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.double(), lambda m: m.float()):
        host = convert(Host(codec))
        other = host.codec
        assert host.own.weight.dtype == convert(torch.nn.Linear(2, 2)).weight.dtype, "the host itself is converted"
        assert other.encode(x) == codes and other.fingerprint == codec.fingerprint
        again = other.decode(codes)
        assert again == decoded if isinstance(decoded, list) else torch.equal(again, decoded)


def test_a_converted_part_is_one_line():
    codec = copy.deepcopy(tiny("image/fsq"))
    codec.encoder.half()
    for call in (lambda: codec.encode(torch.rand(1, 3, 8, 8)), lambda: codec.compress(torch.rand(1, 3, 8, 8))):
        with pytest.raises(ValueError, match=r"must be float32, got torch.float16 in encoder.*\.float\(\)") as error:
            call()
        assert one_line(error)
    assert codec.float().encode(torch.rand(1, 3, 8, 8)).indices.dtype == torch.int64


@pytest.mark.parametrize("name", ["image/fsq", "image/ntc", "image/flex", "image/taming", "audio/rvq", "audio/encodec",
                                  "image/jpeg", "audio/opus"])  # fmt: skip
def test_another_default_type_changes_nothing(name, default):
    with precision.float32():
        codec = tiny(name)
        x = signals(codec, MIDDLE[codec.spec.modality])
        codes, decoded = codec.encode(x), codec.decode(codec.encode(x))
    assert codec.encode(x) == codes and torch.equal(codec.decode(codes), decoded)
    assert decoded.dtype == torch.float32 and torch.get_default_dtype() == default
    fresh = codecs.build(name, **TINY.get(name, {}))
    assert all(p.dtype == torch.float32 for p in fresh.parameters() if p.is_floating_point())
    assert fresh.decompress(fresh.compress(x)).dtype == torch.float32


@pytest.mark.parametrize("name", ["image/fsq", "audio/rvq"])
def test_decoders_compute_in_float32(name, tmp_path, default):
    with precision.float32():
        codecs.save(tiny(name), tmp_path / "codec")
        decoder = models.build_decoder({"codec": str(tmp_path / "codec"), **SMALL})
        codec = decoder.codec
        codes = codec.encode(signals(codec, MIDDLE[codec.spec.modality]))
        expected = decoder.decode(codes, steps=1)
    for other in (decoder, copy.deepcopy(decoder).to(default)):
        assert torch.equal(other.decode(codes, steps=1), expected)
    models.save(decoder, tmp_path / "decoder")
    loaded = models.load(tmp_path / "decoder")
    assert expected.dtype == torch.float32 and torch.equal(loaded.decode(codes, steps=1), expected)
    loaded.flow.half()
    with pytest.raises(ValueError, match="must be float32"):
        loaded.decode(codes)


def test_inference_mode(codec, tmp_path):
    """A codec that is loaded and used in inference mode can be changed and trained afterwards."""
    x = signals(codec, MIDDLE[codec.spec.modality])
    expected = codec.compress(x)
    with torch.inference_mode():
        codecs.save(codec, tmp_path / "codec")
        loaded = codecs.load(tmp_path / "codec")
        assert loaded.compress(x) == expected and len(loaded.decompress(expected)) == len(expected)
    assert not any(value.is_inference() for value in loaded.state_dict().values() if isinstance(value, torch.Tensor))
    if isinstance(loaded, codecs.LatentCodec) and codec.spec.modality is Modality.IMAGE and not codec.start_items:
        loaded.train().reconstruct(x)[0].sum().backward()


def test_threads_share_the_default_type(default):
    """The caller's type is back when all have left their blocks."""
    codec = tiny("image/fsq")
    with precision.float32():
        x = torch.rand(1, 3, 16, 16)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: codec.encode(x), range(40)))
    assert len(set(found)) == 1 and torch.get_default_dtype() == default


@pytest.fixture
def fast(request):
    """Set the precision of products and convolutions, with the older or the newer call of PyTorch."""
    before = {part: part.fp32_precision for part in (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)}
    if request.param == "older":
        torch.set_float32_matmul_precision("medium")
    else:
        for part in before:
            part.fp32_precision = "bf16"
    yield request.param
    if request.param == "older":
        torch.set_float32_matmul_precision("highest")
    for part, value in before.items():
        part.fp32_precision = value


@pytest.mark.parametrize("fast", ["older", "newer"], indirect=True)
def test_a_lower_precision_of_products_changes_nothing(fast):
    parts = torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.cuda.matmul
    given, codec = [part.fp32_precision for part in parts], tiny("image/fsq")
    with precision.float32():
        assert {part.fp32_precision for part in parts} == {"ieee"}
        assert torch.backends.cudnn.conv.fp32_precision == "ieee", "on a GPU, convolutions use TF32 by default"
        x = signals(codec, MIDDLE[codec.spec.modality])
        codes, decoded = codec.encode(x), codec.decode(codec.encode(x))
    assert codec.encode(x) == codes and torch.equal(codec.decode(codes), decoded)
    assert [part.fp32_precision for part in parts] == given and "bf16" in given


SPEED = "import torch; from tokenloom import precision; print(precision.bfloat16_speed(torch.device('cpu')))"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the variable limits the instructions of x86 processors")
def test_bfloat16_is_found_slow_without_its_instructions():
    """oneDNN emulates it then, many times slower than float32."""
    command = [sys.executable, "-c", SPEED]
    limited = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert float(subprocess.run(command, env=limited, capture_output=True, text=True, check=True).stdout) < machine.SLOW
    assert precision.bfloat16_speed(torch.device("cpu")) > 0
    assert precision.bfloat16_speed(torch.device("meta")) == 1


@pytest.mark.parametrize(("speed", "chosen"), [(2.0, "bf16-mixed"), (1.0, "bf16-mixed"), (0.01, "32-true")])
def test_a_run_takes_the_faster_precision(speed, chosen, monkeypatch, recwarn):
    monkeypatch.setattr(precision, "bfloat16_speed", lambda device: speed)
    assert machine.mixed_precision(RunConfig(device="cpu")) == chosen
    assert machine.mixed_precision(RunConfig(device="cpu", precision="32-true")) == "32-true"
    assert not recwarn
    assert machine.mixed_precision(RunConfig(device="cpu", precision="bf16-mixed")) == "bf16-mixed"
    assert [str(w.message) for w in recwarn] == (
        ["cpu computes bfloat16 100 times slower than float32; precision=32-true is faster here"]
        * (speed < machine.SLOW)
    )
