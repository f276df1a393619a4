"""Two plain functions as a codec: validated, priced, identified and compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tokenloom
from tokenloom import codecs
from tokenloom.codecs import Codes, CodeSpec, Modality, Settings, bitstream, rate
from tokenloom.data import Item, Source
from tokenloom.eval.compare import run
from tokenloom.eval.compare.processes import pool

SPEC = CodeSpec(Modality.IMAGE, (16,), stride=(2, 2), channels=3)


def encode(x):
    """Means of 2x2 blocks in 16 levels. Sizes must be even."""
    assert not (x.shape[2] % 2 or x.shape[3] % 2)
    return (nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2) * 15).round().int()


def decode(indices):
    return (indices / 15).repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1) * 1.1


def wrapped(encode=encode, decode=decode, spec=SPEC, **options):
    return codecs.wrap(encode, decode, spec, **{"name": "image/halves", "version": "1", **options})


class Ramps(Source):
    name = "ramps"

    def __len__(self):
        return 3

    def __getitem__(self, i):
        ramp = torch.linspace(0, 1, 24).roll(5 * self._check(i))
        return Item(f"ramp{i}", Modality.IMAGE, ramp.expand(3, 18, 24).contiguous())


def test_signals_of_any_size_come_back_in_range():
    codec = wrapped()
    x = torch.rand(2, 3, 5, 7)
    codes = codec.encode(x)
    assert codes.indices.shape == (2, 1, 3, 4) and codes.indices.dtype == torch.int64
    assert rate.nominal(codec.spec, codes).tolist() == [4 * 12] * 2
    y = codec.decode(codes)
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1, "cropped, and clamped from 1.1"
    flat = torch.full((1, 3, 4, 4), 6 / 15)
    assert codec.decode(codec.encode(flat)).unique().tolist() == pytest.approx([6.6 / 15])
    with pytest.raises(ValueError, match="must be float32"):
        codec.encode((x * 255).byte())
    with pytest.raises(ValueError, match="has no setting"):
        codec.encode(x, 3)
    with pytest.raises(ValueError, match="must be below 16"):
        codec.decode(Codes(torch.full((1, 1, 1, 1), 16), torch.tensor([[2, 2]])))


def test_containers_name_the_functions_by_version_or_weights():
    x = torch.rand(1, 3, 6, 6)
    codec = wrapped()
    data = codec.compress(x)
    assert torch.equal(codecs.decompress(data), codec.decode(codec.encode(x)))
    assert wrapped().fingerprint == codec.fingerprint != wrapped(version="2").fingerprint
    with pytest.raises(codecs.BitstreamError, match="was written by the codec"):
        wrapped(version="2").decompress(data)
    other = CodeSpec(Modality.IMAGE, (17,), stride=(2, 2), channels=3)
    assert wrapped(spec=other).fingerprint != codec.fingerprint != wrapped(name="image/others").fingerprint
    model = nn.Linear(2, 2)
    learned = wrapped(version=None, weights=model)
    before = learned.fingerprint
    with torch.no_grad():
        model.weight += 1
    assert learned.fingerprint != before
    held = {"a.b": torch.ones(2)}
    assert wrapped(weights=held).fingerprint != wrapped(weights={"a.b": torch.zeros(2)}).fingerprint


def test_functions_without_identity_code_but_write_no_container():
    codec = wrapped(version=None)
    codes = codec.encode(torch.rand(1, 3, 4, 4))
    assert codec.decode(codes).shape == (1, 3, 4, 4)
    assert repr(codec) == "FunctionCodec(image/halves, without a fingerprint)" and "halves" in codec._repr_html_()
    assert wrapped().fingerprint.hex() in repr(wrapped())
    with pytest.raises(
        ValueError, match=r"image/halves has no fingerprint.*give codecs.wrap a version, or the weights"
    ):
        bitstream.write(codec, codes)
    with pytest.raises(ValueError, match="image/halves has no fingerprint"):
        tokenloom.compare(codec, Ramps())


def test_settings_reach_encode():
    settings = Settings("levels", "", 16, (2, 16))
    codec = wrapped(lambda x, levels: (encode(x) // (16 // levels)) * (16 // levels), settings=settings)
    x = torch.full((1, 3, 2, 2), 11 / 15)
    assert [codec.encode(x, s).indices.item() for s in (2, 16, None)] == [8, 11, 11]
    with pytest.raises(ValueError, match="levels of image/halves must be one of"):
        codec.encode(x, 3)


def test_codes_of_varying_length_are_codes_for_both():
    spec = CodeSpec(Modality.TEXT, (256,), (), 0)

    def to_codes(texts):
        rows = [torch.tensor([*text.encode()], dtype=torch.int64) for text in texts]
        indices, lengths = codecs.native.pack(rows)
        return Codes(indices, lengths[:, None], lengths)

    def to_text(codes):
        return [bytes(row.tolist()).decode() for row in codecs.native.unpack(codes)]

    codec = codecs.wrap(to_codes, to_text, spec, name="text/own-bytes", version="1")
    assert codec.decompress(codec.compress(["", "héllo"])) == ["", "héllo"]
    sound = CodeSpec(Modality.AUDIO, (3,), (4,), 1, 8000)
    codec = codecs.wrap(
        lambda x: (x.unflatten(2, (-1, 4)).mean(3) + 1).round().long(),
        lambda i: (i - 1.0).repeat_interleave(4, 2), sound, name="audio/thirds", version="1",
    )  # fmt: skip
    assert codec.decode(codec.encode(torch.full((1, 1, 9), 0.9))).tolist() == [[[1.0] * 9]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encode": 3}, "encode must be a function, got int"),
        ({"spec": "image"}, "spec must be a CodeSpec, got str"),
        ({"name": "mine"}, "name must be image/kind, such as 'image/mine', got 'mine'"),
        ({"name": "audio/mine"}, "name must be image/kind"),
        ({"name": "image/jpeg"}, "image/jpeg is the name of a registered codec"),
        ({"version": 2}, "version must be a text"),
        ({"settings": (1, 2)}, "settings must be Settings, got tuple"),
        ({"weights": [torch.ones(1)]}, "weights must be a module, or a mapping of names to tensors, got list"),
    ],
)
def test_mistakes_in_the_arguments(options, says):
    with pytest.raises(ValueError, match=says):
        wrapped(**options)


@pytest.mark.parametrize(
    ("encode", "says"),
    [
        (lambda x: x, "must return an integer tensor or Codes, got torch.float32"),
        (lambda x: x > 0.5, "must return an integer tensor or Codes, got torch.bool"),
        (lambda x: None, "must return an integer tensor or Codes, got NoneType"),
        (lambda x: encode(x)[:, 0], r"shape \(1, 1, 2, 2\), got \(1, 2, 2\); add the axis of the quantizer"),
        (lambda x: encode(x)[..., :1], r"shape \(1, 1, 2, 2\), got \(1, 1, 2, 1\)"),
        (lambda x: encode(x) + 16, "returned invalid codes: indices of image/halves must be below 16"),
        (lambda x: Codes(encode(x), torch.tensor([[4, 4]])), "returned invalid codes: indices .* int64"),
    ],
)
def test_mistakes_of_encode(encode, says):
    with pytest.raises(ValueError, match=f"encode of image/halves .*{says}"):
        wrapped(encode).encode(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("decode", "says"),
    [
        (lambda i: i, "must return a tensor of floats .* got torch.int64"),
        (lambda i: "text", "must return a tensor of floats .* got str"),
        (lambda i: decode(i)[:, :1], r"must return signals of at least \(1, 3, 4, 4\), got \(1, 1, 4, 4\)"),
        (lambda i: decode(i)[..., :3], r"must return signals of at least \(1, 3, 4, 4\), got \(1, 3, 4, 3\)"),
        (lambda i: decode(i) * torch.nan, "returned NaN or infinity"),
    ],
)
def test_mistakes_of_decode(decode, says):
    codec = wrapped(decode=decode)
    with pytest.raises(ValueError, match=f"decode of image/halves {says}"):
        codec.decode(codec.encode(torch.rand(1, 3, 4, 4)))


def test_a_codec_of_functions_is_neither_saved_nor_exported(tmp_path):
    with pytest.raises(ValueError, match="image/halves cannot be saved: a checkpoint holds no functions"):
        codecs.save(wrapped(), tmp_path / "saved")
    with pytest.raises(ValueError, match="image/halves cannot be saved"):
        wrapped().save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists() and "functions" in wrapped().export_obstacle


def test_comparisons_measure_codec_objects_in_this_process(tmp_path, monkeypatch):
    """A lambda, which cannot be sent to another process. The other codecs are measured there."""
    monkeypatch.setattr(pool, "WORTH", 0.0)
    monkeypatch.setattr(run, "cores", lambda: 2)
    codec = wrapped(lambda x: encode(x.clone()), weights=nn.Linear(2, 2))
    result = tokenloom.compare([codec, "image/png"], Ramps(), tmp_path / "a")
    first = result.records[0]
    assert (first.codec, first.kind, first.n, first.learned) == ("image/halves", "image/halves", 3, True)
    assert first.rate("nominal") == 1.0 and first.value("psnr") > 20
    assert result.results.environment.processes == 2 and codec.device.type == "cpu"
    alone = tokenloom.compare(codec, Ramps(), tmp_path / "b")
    assert alone.results.environment.processes == 1, "no process is started for it"
    assert alone.records[0].value("psnr") == first.value("psnr")
    with pytest.raises(ValueError, match="codec 'image/halves' is listed twice"):
        tokenloom.compare([codec, codec], Ramps())
