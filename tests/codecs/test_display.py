"""`repr` of codecs, codes and models, and what notebooks show of them."""

from __future__ import annotations

import base64
import copy
import gc
import io
import pickle
import re
from html.parser import HTMLParser

import pytest
import soundfile
import torch
from PIL import Image
from support.codecs import TINY, tiny
from torch import nn

from tokenloom import codecs
from tokenloom.codecs import Codes, rate


class Page(HTMLParser):
    """Collects elements with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def sources(self, tag: str) -> list[bytes]:
        """Return the embedded files of the elements with this tag. Nothing may come from elsewhere."""
        sources = [attributes["src"] or "" for name, attributes in self.elements if name == tag]
        assert all(source.startswith("data:") for source in sources)
        return [base64.b64decode(source.partition(",")[2]) for source in sources]


def page(shown) -> Page:
    text = shown._repr_html_()
    assert len(text) < 4_000_000 and "<script" not in text and "://" not in text
    return Page(text)


def test_every_codec_is_one_line(codec):
    line = repr(codec)
    assert "\n" not in line and len(line) < 250
    assert codec.name in line and codec.spec.modality in line and codec.fingerprint.hex() in line
    assert f"stride {' x '.join(map(str, codec.spec.stride))}" in line or not codec.spec.stride
    assert "parameters" in line and ("license" in line) == (next(codec.parameters(), None) is not None)
    assert page(codec).elements


def test_the_line_of_a_shipped_codec():
    assert repr(codecs.load("digits-rvq")) == (
        "AudioRVQ(audio/rvq: audio, up to 3 kbit/s nominal, stride 160, 1.8 M parameters, "
        "fingerprint 3b0f4f60893fd56a, license CC-BY-SA-4.0)"
    )


def test_a_codec_in_a_module_stays_one_line():
    codec = tiny("image/fsq")
    assert repr(nn.Sequential(codec, nn.ReLU())) == f"Sequential(\n  (0): {codec!r}\n  (1): ReLU()\n)"


def test_a_codec_without_spec_or_weights():
    class Broken(codecs.Codec):
        pass

    assert repr(Broken()) == "Broken()"
    with torch.device("meta"):
        assert "fingerprint" not in repr(codecs.build("image/fsq"))


def test_codes_state_their_shape_and_bits():
    codec = tiny("image/fsq")
    codes = codec.encode(torch.rand(2, 3, 20, 30))
    bits = rate.nominal(codec.spec, codes).sum().item()
    shape = tuple(codes.indices.shape)
    assert repr(codes) == f"Codes(indices {shape}; sizes 20 x 30; {bits:,.0f} bits nominal)"
    assert repr(codes[1]).startswith(f"Codes(indices {(1, *shape[1:])}; sizes 20 x 30; ")
    assert repr(Codes(codes.indices, codes.sizes)) == f"Codes(indices {shape}; sizes 20 x 30)"


def test_codes_know_their_codec_as_long_as_it_lives():
    codec = tiny("image/fsq")
    codes = codec.encode(torch.rand(1, 3, 20, 30))
    for same in (codes, codes[0], codes.to("cpu")):
        assert same.codec is codec
    stored = pickle.loads(pickle.dumps(codes))
    assert stored == codes and stored.codec is None and repr(stored) == repr(codes)
    assert page(stored).sources("img")


def test_codes_outlive_their_codec():
    def made():
        return codecs.build("image/fsq", **TINY["image/fsq"]).encode(torch.rand(1, 3, 20, 30))

    codes = made()
    gc.collect()
    assert codes.codec is None and "88 bits" in repr(codes) and page(codes).sources("img")


def test_codes_of_every_codec_are_shown(codec):
    spec = codec.spec
    texts = ["<b>&amp;</b>", ""]
    audio = torch.rand(2, max(spec.channels, 1), max((spec.sample_rate or 0) // 2, 1)) - 0.5
    x = {"image": torch.rand(2, 3, 40, 70), "audio": audio, "text": texts}[spec.modality]
    shown = page(codec.encode(x))
    maps = [Image.open(io.BytesIO(file)) for file in shown.sources("img")]
    if spec.modality == "audio":
        for file in shown.sources("audio"):
            info = soundfile.info(io.BytesIO(file))
            assert info.samplerate == spec.sample_rate and info.channels == spec.channels
        assert len(shown.sources("audio")) == len(maps) == 2
    else:
        assert len(maps) == (4 if spec.modality == "image" else 2)
    if spec.modality == "image":
        assert maps[1].size == (70, 40)
    if spec.modality == "text" and spec.total is False:
        assert "<b>&amp;</b>" in shown.texts


def test_a_token_has_one_color():
    codes = Codes(torch.tensor([[[[5, 5, 9], [9, 5, -1]]]]), torch.tensor([[16, 24]]))
    (file,) = page(codes).sources("img")
    pixels = Image.open(io.BytesIO(file))
    at = {(x, y): pixels.getpixel((x, y)) for x in range(3) for y in range(2)}
    assert at[0, 0] == at[1, 0] == at[1, 1] and at[2, 0] == at[0, 1] != at[0, 0]
    assert at[2, 1] == (0, 0, 0), "an unused quantizer is black"


def test_large_batches_and_signals_stay_small():
    codes = codecs.build("image/png").encode(torch.rand(9, 3, 300, 500))
    text = codes._repr_html_()
    assert len(text) < 4_000_000 and "and 5 more" in text
    large = Codes(torch.randint(0, 1000, (2, 8, 2000, 2000)), torch.tensor([[16000, 16000]] * 2))
    assert len(large._repr_html_()) < 4_000_000
    assert len(codecs.show(torch.rand(2, 960_000) - 0.5, 48_000)._repr_html_()) < 1_000_000


def test_show():
    assert repr(codecs.show(torch.rand(2, 3, 8, 9))) == "Shown(2 of shape (3, 8, 9))"
    assert len(page(codecs.show(torch.rand(2, 3, 8, 9))).sources("img")) == 2
    assert len(page(codecs.show(torch.rand(1, 800) - 0.5, 8000)).sources("audio")) == 1
    assert "<i>" in page(codecs.show("<i>")).texts and "&lt;i&gt;" in codecs.show(["<i>"])._repr_html_()
    for wrong, match in ((torch.rand(4, 8, 9), r"\(4, 8, 9\)"), (torch.rand(7), "shape"), (3, "int"), ([], "list")):
        with pytest.raises(ValueError, match=match):
            codecs.show(wrong)


def test_a_hostile_license_is_escaped_on_one_line():
    codec = copy.deepcopy(tiny("image/fsq"))  # other tests share the original
    codec.license = codecs.checkpoint.license_of({"license": "<script>alert(1)</script>\nMIT"})
    assert "\n" not in repr(codec) and "<script" not in codec._repr_html_()
    assert re.search(r"license &lt;script&gt;.*MIT", codec._repr_html_())
