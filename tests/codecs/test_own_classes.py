"""Classes of the user's file by name: run where the user names them, never on the word of a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tokenloom import codecs, own_code
from tokenloom.codecs import registry
from tokenloom.train import record

CODE = """
from pathlib import Path
import torch
from tokenloom.codecs import Codec, Codes, CodeSpec, Modality

Path("ran").write_text(Path("ran").read_text() + __name__ + " " if Path("ran").exists() else __name__ + " ")

class Mean(Codec):
    spec = CodeSpec(Modality.IMAGE, (256,), (64, 64), 3)

    def __init__(self, offset=0):
        super().__init__()
        self.offset = offset

    def _encode(self, x, setting):
        index = (x.mean((1, 2, 3), keepdim=True) * 255).round().long()
        return Codes(index, torch.tensor(x.shape[2:]).repeat(len(x), 1))

    def _decode(self, codes):
        return (codes.indices / 255).expand(-1, 3, *codes.sizes[0].tolist()).contiguous()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(own_code, "_loaded", {})
    monkeypatch.setattr(own_code, "_copies", {})
    before = set(sys.modules)
    Path("mean_codec.py").write_text(CODE)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def new_process() -> None:
    for path in own_code._loaded:
        sys.modules.pop(path.stem, None)
    own_code._loaded.clear()
    own_code._copies.clear()


def ran() -> list[str]:
    return Path("ran").read_text().split() if Path("ran").exists() else []


def test_a_class_is_built_with_arguments_and_found_by_its_fingerprint():
    codec = codecs.build("mean_codec.py:Mean", offset=3)
    assert (codec.name, codec.config, codec.offset) == ("mean_codec.py:Mean", {"offset": 3}, 3)
    assert codec.fingerprint != codecs.build("mean_codec.py:Mean").fingerprint
    assert "mean_codec.py:Mean" not in codecs.names() and ran() == ["mean_codec"]
    loaded = codecs.load({"name": "mean_codec.py:Mean", "offset": 3})
    data = loaded.compress(torch.full((1, 3, 5, 7), 100 / 255))
    assert (codecs.decompress(data) * 255).unique().tolist() == [100.0]


def test_an_edited_file_runs_again():
    assert codecs.load("mean_codec.py:Mean").offset == 0
    Path("mean_codec.py").write_text(CODE.replace("offset=0", "offset=9"))
    assert codecs.load("mean_codec.py:Mean").offset == 9 and ran() == ["mean_codec"] * 2


def test_a_checkpoint_is_found_under_another_name_of_the_same_file():
    codecs.save(codecs.build("mean_codec.py:Mean", offset=2), "saved")
    fingerprint = codecs.load("saved").fingerprint
    new_process()
    Path("mean_codec.py").rename("renamed.py")
    assert codecs.build("renamed.py:Mean").name == "renamed.py:Mean"
    again = codecs.load("saved")
    assert (again.name, again.offset, again.fingerprint) == ("mean_codec.py:Mean", 2, fingerprint)


@pytest.mark.parametrize("name", ["mean_codec.py:Mean", "./mean_codec.py:Mean", "absolute"])
def test_a_checkpoint_runs_no_file_that_it_names(place, name):
    """A stranger's config, without the record of a file that the user has imported."""
    Path("theirs").mkdir()
    named = f"{place}/mean_codec.py:Mean" if name == "absolute" else name
    config = {"codec": {"name": named}, "fingerprint": "0" * 16}
    Path("theirs/config.yaml").write_text(yaml.safe_dump(config))
    save_file({}, "theirs/model.safetensors")
    with pytest.raises(ValueError, match="is in a Python file that was not imported"):
        codecs.load("theirs")
    config["imports"] = [{"file": "mean_codec.py", "sha256": own_code.sha256(Path("mean_codec.py"))}]
    Path("theirs/config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="code that was never imported on this machine"):
        codecs.load("theirs")
    assert ran() == []


def test_the_record_of_a_run_names_no_other_file(place):
    """Neither as the codec to train nor as that of a decoder."""
    Path("theirs").mkdir()
    for section in ({"codec": {"name": f"{place}/mean_codec.py:Mean"}}, {"decoder": {"codec": "mean_codec.py:Mean"}}):
        content = {"config": section, "imports": [], "sessions": [{"folder": str(place)}]}
        Path("theirs/run.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="is in a Python file that was not imported"):
            record.saved(Path("theirs"))
    assert ran() == []


def test_names_of_unknown_origin_run_nothing():
    with pytest.raises(ValueError, match=r"was not imported: add import=mean_codec\.py"):
        codecs.codec.build_known("mean_codec.py:Mean")
    assert ran() == []
    assert registry.resolve("image/jpeg") == "image/jpeg"
    codecs.load("mean_codec.py:Mean")
    assert codecs.codec.build_known("mean_codec.py:Mean").offset == 0
