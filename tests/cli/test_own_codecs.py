"""A class of the user's own file, my_codec.py:MyCodec, in every command that takes a codec."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.cli import refuse, succeed

import tokenloom
from tokenloom import codecs, data, own_code
from tokenloom.eval import compare

CODE = '''
"""Codecs that no registry knows."""

import torch
from torch import nn

from tokenloom.codecs import Codec, Codes, CodeSpec, LatentCodec, Modality, batches, quantizers, register


class Gray(Codec):
    """A few gray levels for each pixel."""

    def __init__(self, levels=4):
        super().__init__()
        self.levels = levels
        self.spec = CodeSpec(Modality.IMAGE, (levels,), stride=(1, 1), channels=3)

    def _encode(self, x, setting):
        indices = (x.mean(1, keepdim=True) * (self.levels - 1)).round().long()
        return Codes(indices, torch.tensor(x.shape[2:]).repeat(len(x), 1))

    def _decode(self, codes):
        return (codes.indices / (self.levels - 1)).repeat(1, 3, 1, 1)


class Blocks(LatentCodec):
    """Blocks of 4x4."""

    def __init__(self, width=8, levels=(8, 5, 5)):
        quantizer = quantizers.FSQ(list(levels))
        super().__init__(CodeSpec(Modality.IMAGE, quantizer.sizes, (4, 4), 3), quantizer)
        self.down = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.SiLU(), nn.Conv2d(width, quantizer.dim, 1))
        self.up = nn.ConvTranspose2d(quantizer.dim, 3, 4, 4)

    def analyze(self, x):
        return self.down(batches.pad_to_stride(x, 4))

    def synthesize(self, latents):
        return self.up(latents)


@register("image/own-means")
class Means(Gray):
    """A class with a registered name."""


class Halfway(Codec):
    spec = CodeSpec(Modality.IMAGE, (4,), stride=(1, 1), channels=3)

    def _encode(self, x, setting):
        return Codes(torch.zeros(len(x), 1, *x.shape[2:]).long(), torch.tensor(x.shape[2:]).repeat(len(x), 1))


class Moody(Gray):
    def __init__(self):
        assert False, "not today"


class Plain(Gray):
    def __init__(self):
        Codec.__init__(self)


def helper():
    """No codec."""
'''
SHORT = ["data=scenes", "data.size=32", "data.count=6", "steps=2", "batch_size=2", "crop.size=16", "losses.l2=1",
         "device=cpu"]  # fmt: skip
SCENES = ["data=scenes", "data.size=32", "data.count=3"]
PLACE = "my codecs=1/my_codec.py"
"""A path with a blank and an equals sign."""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with my_codec.py, and a picture. What a test imports is forgotten at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path(PLACE).parent.mkdir()
    for path in (PLACE, "my_codec.py"):
        Path(path).write_text(CODE)
    codecs.write(data.open_source("scenes", count=1, size=40)[0].signal, "photo.png")
    yield tmp_path
    new_process()


def new_process() -> None:
    """Forget what ran, as a new process does."""
    for path in own_code._loaded:
        sys.modules.pop(path.stem, None)
    own_code._loaded.clear()
    own_code._copies.clear()
    codecs.registry._classes.pop("image/own-means", None)


@pytest.mark.parametrize(
    "place", ["my_codec.py", "./my_codec.py", PLACE, "~/my_codec.py", "absolute", "a+b/my_codec.py"]
)
def test_a_file_is_coded_by_a_class_from_any_folder(capsys, own, monkeypatch, place):
    monkeypatch.setenv("HOME", str(own))
    Path("a+b").mkdir()
    Path("a+b/my_codec.py").write_text(CODE)
    codec = f"{own / 'my_codec.py' if place == 'absolute' else place}:Gray"
    says = succeed(capsys, "encode", "photo.png", "--codec", codec)
    assert "1600 tokens, " in says and says.endswith("my_codec.py:Gray\n")
    new_process()
    succeed(capsys, "decode", "photo.tlm", "-o", "back.png", "--codec", codec)
    levels = {round(value * 3, 3) for value in codecs.read("back.png").unique().tolist()}
    assert levels <= {0.0, 1.0, 2.0, 3.0}


def test_a_mapping_holds_the_arguments(capsys):
    eight = f"{{name: {PLACE}:Gray, levels: 8}}"
    assert "by my codecs=1/my_codec.py:Gray levels=8" in succeed(capsys, "encode", "photo.png", "--codec", eight)
    new_process()
    assert "was written by the codec" in refuse(
        capsys, "decode", "photo.tlm", "-o", "b.png", "--codec", f"{PLACE}:Gray"
    )
    succeed(capsys, "decode", "photo.tlm", "-o", "b.png", "--codec", eight)
    values = (codecs.read("b.png") * 7).unique()
    assert (values - values.round()).abs().max() < 0.02, "eight gray levels"


def test_codecs_are_described(capsys):
    names = [f"{PLACE}:Gray", f"{{name: {PLACE}:Blocks, levels: [5, 5]}}", "emoji-fsq", "image/jpeg"]
    found = {entry["name"]: entry for entry in json.loads(succeed(capsys, "codecs", "--json", *names))}
    assert set(found) == {f"{PLACE}:Gray", f"{PLACE}:Blocks levels=[5,5]", "emoji-fsq", "image/jpeg"}
    assert found[f"{PLACE}:Gray"]["codebook_sizes"] == [4] and not found[f"{PLACE}:Gray"]["trains"]
    assert found[f"{PLACE}:Blocks levels=[5,5]"]["codebook_sizes"] == [25] and found["emoji-fsq"]["shipped"]
    assert "to train" in succeed(capsys, "codecs", f"{PLACE}:Blocks")
    assert "(did you mean emoji-fsq?)" in refuse(capsys, "codecs", "emoji-fsk")


def test_a_class_trains_and_its_checkpoint_is_found_again(capsys, own):
    succeed(capsys, "train", f"codec={PLACE}:Blocks", "codec.width=4", *SHORT, "out=runs/mine")
    config = yaml.safe_load(Path("runs/mine/config.yaml").read_text())
    assert config["codec"] == {"name": "my_codec.py:Blocks", "width": 4, "levels": [8, 5, 5]}
    assert config["imports"] == [{"file": "my_codec.py", "sha256": own_code.sha256(Path(PLACE))}]
    assert (Path("runs/mine/code/my_codec.py")).read_text() == CODE
    new_process()
    codec = codecs.load("runs/mine")
    assert codec.name == "my_codec.py:Blocks" and codec.config["width"] == 4
    new_process()
    succeed(capsys, "train", "resume=runs/mine", "steps=3")
    new_process()
    says = succeed(capsys, "encode", "photo.png", "--codec", "runs/mine")
    assert "100 tokens" in says
    assert "encoder and decoder of runs/mine" in succeed(
        capsys, "export", "runs/mine", "--format", "torch.export", "-o", "exported"
    )


def test_a_training_takes_mappings_sweeps_and_configuration_files(capsys):
    succeed(capsys, "train", f"codec={{name: '{PLACE}:Blocks', width: 3}}", *SHORT, "out=a")
    assert codecs.load("a").config["width"] == 3
    succeed(capsys, "train", "-m", f"codec='{PLACE}:Blocks','my_codec.py:Blocks'", *SHORT, "out=b")
    assert codecs.load("b/1").config["width"] == 8
    Path("conf/codec").mkdir(parents=True)
    Path("conf/codec/narrow.yaml").write_text(f"name: {PLACE}:Blocks\nwidth: 2\n")
    new_process()
    succeed(capsys, "train", "--config-dir", "conf", "codec=narrow", *SHORT, "out=c")
    new_process()
    assert codecs.load("c").config == {"width": 2}
    new_process()
    run = tokenloom.train(
        {"name": f"{PLACE}:Blocks", "width": 5}, {"name": "scenes", "size": 32, "count": 6}, out="d", steps=1,
        batch_size=2, crop={"size": 16}, losses={"l2": 1}, device="cpu",
    )  # fmt: skip
    assert run.load().config["width"] == 5


def test_a_registered_class_keeps_its_name(capsys):
    codec = codecs.load("my_codec.py:Means")
    assert codec.name == "image/own-means" and "image/own-means" in codecs.names()
    assert codecs.build("image/own-means").fingerprint == codec.fingerprint
    codecs.save(codec, "saved")
    assert yaml.safe_load(Path("saved/config.yaml").read_text())["codec"] == {"name": "image/own-means"}
    new_process()
    assert codecs.load("saved").fingerprint == codec.fingerprint


def test_comparisons_take_classes_mappings_and_decoders(capsys):
    listed = f"codecs=['{PLACE}:Gray',{{name: './my_codec.py:Gray', levels: 8}},image/jpeg]"
    succeed(capsys, "compare", listed, *SCENES, "out=compared")
    records = json.loads(Path("compared/results.json").read_text())["records"]
    rates = {r["codec"]: r["rates"]["nominal"]["mean"] for r in records if r["codec"] != "image/jpeg"}
    assert rates == {f"{PLACE}:Gray": 2.0, "./my_codec.py:Gray levels=8": 3.0}
    new_process()
    succeed(capsys, "evaluate", f"{{name: {PLACE}:Gray, levels: 2}}", *SCENES, "out=evaluated")
    (record,) = json.loads(Path("evaluated/results.json").read_text())["records"]
    assert record["kind"] == "my_codec.py:Gray" and record["rates"]["nominal"]["mean"] == 1.0
    Path("a+b").mkdir()
    Path("a+b/my_codec.py").write_text(CODE)
    new_process()
    assert compare.entries.load_entries(["a+b/my_codec.py:Gray"])[0].label == "a+b/my_codec.py:Gray"
    says = refuse(capsys, "compare", "codecs=[my_codec.py:Gray+diffusion]", *SCENES, "out=x")
    assert "my_codec.py:Gray" in says and "decoder" in says


def test_tokens_are_written_by_other_processes_too(capsys):
    succeed(capsys, "tokenize", f"codec={PLACE}:Gray", "codec.levels=2", *SCENES, "workers=1", "out=a")
    succeed(capsys, "tokenize", f"codec={{name: '{PLACE}:Gray', levels: 2}}", *SCENES, "workers=0", "out=b")
    first, second = (json.loads(Path(out, "_index.json").read_text()) for out in ("a", "b"))
    assert first["codec"]["name"] == "my_codec.py:Gray" and first["totals"]["nominal_bits"] == 3 * 32 * 32
    assert [shard["sha256"] for shard in first["shards"]] == [shard["sha256"] for shard in second["shards"]]


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("gone.py:Gray", "gone.py:Gray: there is no file gone.py"),
        ("my_codec.py", "a codec in a Python file is named with its class, my_codec.py:CLASS"),
        ("my_codec.py:Grey", "unknown class of my_codec.py 'Grey' (did you mean Gray?)"),
        ("my_codec.py:nothing", "unknown class of my_codec.py 'nothing'; known: Gray, Blocks, Means, Moody, Plain"),
        ("my_codec.py:helper", "my_codec.py:helper must be a subclass of tokenloom.codecs.Codec; my_codec.py has Gray"),
        ("my_codec.py:LatentCodec", "must be defined in my_codec.py, which imports it from tokenloom.codecs.codec"),
        ("my_codec.py:Halfway", "my_codec.py:Halfway is abstract: it must implement _decode"),
        ("my_codec.py:Moody", "my_codec.py:Moody cannot be built from {}: not today"),
        ("my_codec.py:Plain", "my_codec.py:Plain must have a CodeSpec as its spec, got None"),
        ("my_codec.py:Blocks", "my_codec.py:Blocks has random weights: train it (tokenloom train codec=my_codec.py:Bl"),
        ("{name: my_codec.py:Gray, level: 3}", "my_codec.py:Gray takes no 'level' (did you mean levels?)"),
        ("{name: my_codec.py:Gray, checkpoint: x.pt}", "my_codec.py:Gray takes no checkpoint of other projects"),
        ("{nom: my_codec.py:Gray}", "must be a name, or a mapping such as '{name: my_codec.py:MyCodec, width: 64}'"),
        ("{name: [", "must be a name, or a mapping such as"),
        ("broken.py:Gray", "broken.py, line 3: RuntimeError: too early"),
        ("ended.py:Gray", "ended.py, line 2: SystemExit: 3"),
    ],
)
def test_mistakes_are_one_line(capsys, named, says):
    Path("broken.py").write_text("'''Broken.'''\n\nraise RuntimeError('too early')\n")
    Path("ended.py").write_text("import sys\nsys.exit(3)\n")
    assert says in refuse(capsys, "encode", "photo.png", "--codec", named)
    assert not Path("photo.tlm").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["codec=my_codec.py:Blocks", "codec.widht=3"], "codec.width"),
        (["codec=gone.py:Blocks"], "there is no file gone.py"),
        (["codec=my_codec.py:Gray"], "my_codec.py:Gray has no weights to train"),
        (["codec=my_codec.py:Grey"], "(did you mean Gray?)"),
        (["codec={name: my_codec.py:Blocks, depth: 3}"], "codec.depth"),
    ],
)
def test_mistakes_in_a_training_are_one_line(capsys, argv, says):
    assert says in refuse(capsys, "train", *argv, *SHORT, "out=runs/mine")


def test_help_says_that_naming_a_file_runs_it(capsys):
    for command in ("codecs", "encode", "decode", "export", "evaluate", "compare", "train", "tokenize"):
        with pytest.raises(SystemExit):
            succeed(capsys, command, "--help")
        text = " ".join(capsys.readouterr().out.split())
        assert "my_codec.py:MyCodec" in text and ("which is run" in text or "runs it" in text), command
