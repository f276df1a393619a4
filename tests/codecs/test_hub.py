"""Folders and repositories in the hub's layout: config.json, safetensors and a model card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from support.codecs import one_line, structured, tiny
from support.hub_server import hub

from tokenloom import codecs, models
from tokenloom.codecs import Codec
from tokenloom.codecs.registry import codec_class

KINDS = ["image/fsq", "audio/rvq", "image/flex", "text/bpe"]


@pytest.mark.parametrize("name", KINDS)
def test_a_codec_is_saved_and_loaded(name, tmp_path):
    codec = tiny(name)
    codec.save_pretrained(tmp_path, trained={"steps": 3})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["codec"]["name"] == name and config["trained"] == {"steps": 3}
    for back in (Codec.from_pretrained(tmp_path), type(codec).from_pretrained(str(tmp_path)), codecs.load(tmp_path)):
        assert back.fingerprint == codec.fingerprint and not back.training
    with pytest.raises(ValueError, match="must hold a VQGAN") as error:
        codec_class("image/vqgan").from_pretrained(tmp_path)
    assert one_line(error)


def test_a_card_that_runs(tmp_path, monkeypatch):
    """Run the Python code of a card next to the file that it names."""
    monkeypatch.chdir(tmp_path)
    for name, file, size in (("image/fsq", "photo.png", (30, 41)), ("audio/rvq", "speech.wav", (3000,))):
        codec = tiny(name)
        codec.save_pretrained("mine")
        codecs.write(structured(codec, size)[0], file, **({"sample_rate": 8000} if size == (3000,) else {}))
        card = ModelCard.load(tmp_path / "mine" / "README.md")
        assert card.data.library_name == "tokenloom" and str(codec.spec.modality) in card.data.tags
        assert codec.fingerprint.hex() in card.text
        found = {}
        exec(re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1], found)
        assert found["y"].shape[2:] == size
        for path in (tmp_path / "mine").iterdir():
            path.unlink()


def test_an_existing_card_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    tiny("image/fsq").save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_stores_and_two_configs(tmp_path):
    codec = tiny("image/rvq")
    codec.save_pretrained(tmp_path / "half", store="float16")
    codec.save_pretrained(tmp_path / "whole")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.7 * sizes[1]
    with pytest.raises(ValueError, match=r"holds a checkpoint with config\.json") as error:
        codecs.save(codec, tmp_path / "whole")
    assert one_line(error)
    codecs.save(codec, tmp_path / "ours")
    with pytest.raises(ValueError, match=r"holds a checkpoint with config\.yaml"):
        codec.save_pretrained(tmp_path / "ours")


def test_a_model_and_a_decoder(tmp_path):
    omni = models.load("omni-small")
    omni.save_pretrained(tmp_path / "omni")
    back = models.Omni.from_pretrained(tmp_path / "omni")
    assert back.generate(["red heart"], to="text", seed=1) == omni.generate(["red heart"], to="text", seed=1)
    decoder = models.load("emoji-fsq-diffusion")
    decoder.save_pretrained(tmp_path / "decoder")
    again = models.DiffusionDecoder.from_pretrained(tmp_path / "decoder")
    codes = decoder.codec.encode(structured(decoder.codec, (64, 64)))
    assert torch.equal(again.decode(codes, steps=1, seed=3), decoder.decode(codes, steps=1, seed=3))
    for wrong, cls in (("omni", models.DiffusionDecoder), ("decoder", models.Omni)):
        with pytest.raises(ValueError, match=r"describes no (omni|decoder)") as error:
            cls.from_pretrained(tmp_path / wrong)
        assert one_line(error)
    for name in ("omni", "decoder"):
        assert ModelCard.load(tmp_path / name / "README.md").data.library_name == "tokenloom"


def test_a_decoder_with_a_codec_of_its_own(tmp_path):
    codecs.save(tiny("image/fsq"), tmp_path / "codec")
    decoder = models.build_decoder({"codec": str(tmp_path / "codec"), "widths": [8, 8], "depths": [1, 1]})
    decoder.save_pretrained(tmp_path / "decoder")
    (tmp_path / "codec" / "config.yaml").unlink()
    back = models.DiffusionDecoder.from_pretrained(tmp_path / "decoder")
    assert back.codec.fingerprint == decoder.codec.fingerprint


PROGRAM = """
import sys
import torch
from tokenloom import codecs, models
from tokenloom.codecs import Codec
codec = codecs.load(sys.argv[1])
print(codec.push_to_hub("me/tiny", token="hf_secret"))
print(codecs.load("me/tiny").fingerprint == codec.fingerprint)
print(type(codec).from_pretrained("me/tiny", revision="main").fingerprint == codec.fingerprint)
decoder = models.build_decoder({"codec": sys.argv[1], "widths": [8, 8], "depths": [1, 1]})
print(decoder.push_to_hub("me/decoder", token="hf_secret"))
print(models.load("me/decoder").codec.fingerprint == codec.fingerprint)
for name, token, make in (("me/tiny", "hf_wrong", codec.push_to_hub), ("no name", "hf_secret", codec.push_to_hub)):
    try:
        make(name, token=token)
    except (OSError, ValueError) as error:
        print(type(error).__name__, error)
try:
    Codec.from_pretrained("me/nothing")
except FileNotFoundError as error:
    print(error)
"""


@pytest.mark.usefixtures("loopback")
def test_upload_and_download(tmp_path):
    """The real client creates, uploads and downloads repositories of a local hub. Bad requests are refused."""
    codecs.save(tiny("image/fsq"), tmp_path / "codec")
    with hub() as (address, repositories, _):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "codec")],
            env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[0].endswith("/me/tiny") and lines[3].endswith("/me/decoder")
    assert lines[1:3] == ["True", "True"] and lines[4] == "True"
    assert lines[5].startswith("OSError nothing was uploaded to 'me/tiny': ") and "401" in lines[5]
    assert lines[6].startswith("ValueError repo_id must be owner/name, got 'no name'")
    assert lines[7].startswith("'me/nothing' is neither a folder") and len(lines) == 8
    assert {"README.md", "config.json", "model.safetensors"} <= set(repositories["me/tiny"])
    assert "codec/model.safetensors" in repositories["me/decoder"]
    assert b"codecs.load('me/tiny')" in repositories["me/tiny"]["README.md"]


def test_options_of_a_download_need_a_hub_id(tmp_path):
    tiny("image/fsq").save_pretrained(tmp_path)
    for source in (tmp_path, "emoji-fsq"):
        with pytest.raises(ValueError, match="revision is for downloads") as error:
            Codec.from_pretrained(source, revision="main")
        assert one_line(error)
