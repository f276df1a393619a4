"""The user's own codec, loss, metric, data source and task, from one file, in every command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.cli import refuse, succeed

from tokenloom import codecs, data, own_code
from tokenloom.metrics import registry as metrics
from tokenloom.train import losses
from tokenloom.train.job import TASKS

CODE = '''
"""One of each kind."""

from dataclasses import dataclass

import torch
from torch import nn

from tokenloom import codecs, data, metrics
from tokenloom.codecs import CodeSpec, LatentCodec, Modality, quantizers
from tokenloom.data import Item, Source
from tokenloom.train import losses, tasks
from tokenloom.train.tasks.codec import CodecConfig, CodecJob


@codecs.register("image/blocks")
class Blocks(LatentCodec):
    """Means of 4x4 blocks."""

    def __init__(self, levels=(5, 5, 5), gain=1.0):
        quantizer = quantizers.FSQ(list(levels))
        super().__init__(CodeSpec(Modality.IMAGE, quantizer.sizes, (4, 4), 3), quantizer)
        self.down = nn.Conv2d(3, len(levels), 4, 4)
        self.up = nn.ConvTranspose2d(len(levels), 3, 4, 4)
        self.gain = gain

    def analyze(self, x):
        return self.gain * self.down(codecs.batches.pad_to_stride(x, 4))

    def synthesize(self, latents):
        return self.up(latents)


@losses.register("edges", Modality.IMAGE)
def edges(x, y):
    """Mean absolute difference of the horizontal gradients."""
    return (x.diff(dim=-1) - y.diff(dim=-1)).abs().mean()


@metrics.register("image/peak", higher=False, unit="levels")
def peak(reference, output):
    """Largest difference of a pixel, in levels of 8 bits."""
    return 255 * (reference - output).abs().max()


@data.register("stripes")
class Stripes(Source):
    """Stripes of some width."""

    def __init__(self, width=4, count=6):
        self.width, self.count = width, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        columns = (torch.arange(40) + self._check(i)) // self.width % 2
        return Item(str(i), Modality.IMAGE, columns.float().expand(3, 40, 40).contiguous())


@dataclass
class GentleConfig(CodecConfig):
    gentleness: float = 0.5


@tasks.register("gentle")
class GentleJob(CodecJob):
    """A codec whose weights start small."""

    config = GentleConfig
    fixed = (*CodecJob.fixed, "gentleness")

    def start(self):
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(self.cfg.gentleness)
'''
SHORT = ["steps=2", "batch_size=2", "crop.size=16", "device=cpu"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the file my_code.py. What it registers is forgotten at the end of a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("my_code.py").write_text(CODE)
    codecs.write(data.open_source("scenes", count=1, size=40)[0].signal, "photo.png")
    yield tmp_path
    new_process()


def new_process() -> None:
    """Forget what the file registered, as a new process does."""
    own_code._loaded.clear()
    sys.modules.pop("my_code", None)
    for table, name in (
        (codecs.registry._classes, "image/blocks"), (data.sources.registry.SOURCES, "stripes"), (TASKS, "gentle"),
        (losses.LOSSES, "edges"), (metrics.FUNCTIONS, "image/peak"),
    ):  # fmt: skip
        table.pop(name, None)
    losses.NAMES[:] = [name for name in losses.NAMES if name != "edges"]


def trained(capsys: pytest.CaptureFixture[str], *more: str) -> None:
    """Train a run in runs/mine with one of each kind."""
    succeed(capsys, "train", "import=my_code.py", "task=gentle", "gentleness=0.25", "codec=image/blocks",
            "codec.gain=2", "losses.edges=1", "data=stripes", *SHORT, "out=runs/mine", *more)  # fmt: skip


def test_one_file_trains_and_is_found_again(capsys):
    trained(capsys)
    config = yaml.safe_load(Path("runs/mine/config.yaml").read_text())
    assert config["codec"] == {"name": "image/blocks", "levels": [5, 5, 5], "gain": 2.0}
    assert config["imports"] == [{"file": "my_code.py", "sha256": own_code.sha256(Path("my_code.py"))}]
    assert config["trained"]["losses"] == {"edges": 1.0}

    new_process()
    assert codecs.load("runs/mine").gain == 2.0
    new_process()
    succeed(capsys, "encode", "photo.png", "--codec", "runs/mine")
    new_process()
    succeed(capsys, "decode", "photo.tlm", "-o", "back.png", "--codec", "runs/mine")
    assert codecs.read("back.png").shape == codecs.read("photo.png").shape
    new_process()
    succeed(capsys, "compare", "codecs=[runs/mine,image/png]", "import=my_code.py", "data=stripes", "out=compared")
    results = json.loads(Path("compared/results.json").read_text())
    described = results["protocols"]["rgb8"]["metrics"]["peak"]
    assert described["unit"] == "levels" and described["better"] == "lower"
    assert described["definition"] == "Largest difference of a pixel, in levels of 8 bits."
    peaks = {record["codec"]: record["metrics"]["peak"]["mean"] for record in results["records"]}
    assert peaks["image/png"] == 0 and peaks["runs/mine"] > 1


def test_a_run_of_a_stranger_asks_for_its_file(capsys, own, monkeypatch):
    """The same folder on another machine, where nobody has imported the file."""
    trained(capsys)
    new_process()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own / "another user"))
    says = refuse(capsys, "encode", "photo.png", "--codec", "runs/mine")
    assert "runs/mine needs my_code.py, code that was never imported on this machine: read it" in says
    assert "import=runs/mine/code/my_code.py" in says and "image/blocks" not in codecs.names()
    refuse(capsys, "compare", "codecs=[runs/mine]", "data=scenes", "data.count=2", "out=compared")
    assert "image/blocks" not in codecs.names()
    succeed(capsys, "encode", "photo.png", "--codec", "runs/mine", "--import", "runs/mine/code/my_code.py")
    new_process()
    succeed(capsys, "encode", "photo.png", "-o", "again.tlm", "--codec", "runs/mine")


def test_commands_without_keys_take_the_option(capsys):
    Path("mine").mkdir()
    Path("my_code.py").rename("mine/my_code.py")
    assert "image/blocks" in succeed(capsys, "codecs", "--json", "--import", "mine")  # a folder
    assert "there is no such file or folder" in refuse(capsys, "codecs", "--import", "mine.py")


def test_a_configuration_folder_of_ones_own(capsys):
    """--config-dir holds YAML files, which also win over the defaults of the class; a sweep reads them, too."""
    for name, text in (
        ("codec/image/narrow.yaml", "name: image/blocks\nlevels: [3]\ngain: 1.0\n"),
        ("data/thin.yaml", "name: stripes\nwidth: 1\ncount: 4\nstrict: false\n"),
        ("experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /codec: image/narrow\nsteps: 1\n"),
    ):
        path = Path("my conf", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    common = ["--config-dir", "my conf", "import=my_code.py", "data=thin", "losses.edges=1", *SHORT]
    succeed(capsys, "train", *common, "codec=image/narrow", "out=plain")
    assert codecs.load("plain").config["levels"] == [3]
    assert "data:" in succeed(capsys, "train", *common, "experiment=mine", "--cfg", "job")
    succeed(capsys, "train", "-m", *common, "codec=image/narrow", "codec.gain=1,2", "out=swept")
    assert [codecs.load(f"swept/{job}").gain for job in (0, 1)] == [1.0, 2.0]
    assert "width: 1" in succeed(capsys, "compare", "--config-dir", "my conf", "data=thin", "--cfg", "job")
    says = refuse(capsys, "train", *common, "codec=image/narow", "out=x")
    assert "unknown codec 'image/narow' (did you mean image/narrow?)" in says
    assert "--config-dir nowhere: there is no such folder" in refuse(capsys, "train", "--config-dir", "nowhere")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["codec=image/block"], "image/blocks"),
        (["codec=image/blocks", "codec.gian=2"], "codec.gain"),
        (["codec=image/blocks", "losses.edge=1"], "losses.edges"),
        (["codec=image/blocks", "data=stripe"], "stripes"),
        (["codec=image/blocks", "task=gentel"], "(did you mean gentle?)"),
        (["codec=image/blocks", "gentlenes=1"], "gentleness"),
    ],
)
def test_unknown_names_beside_ones_own(capsys, argv, says):
    given = [] if any(o.startswith("data=") for o in argv) else ["data=stripes"]
    assert says in refuse(capsys, "train", "import=my_code.py", *argv, *given, *SHORT, "out=runs/mine")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["import=gone.py"], "gone.py: there is no such file"),
        (["import=[my_code.py,gone.py]"], "gone.py: there is no such file"),
        (["import=a.py,b.py"], "import must be a path, or a list"),
        (["import=3"], "import must be a path, or a list"),
        (["import="], "import must be a path, or a list"),
        (["import=photo.png"], "import must be a Python file or a folder, got"),
    ],
)
def test_mistakes_in_the_import(capsys, argv, says):
    assert says in refuse(capsys, "train", *argv, "codec=image/fsq", "data=scenes", *SHORT)


def test_tokens_are_written_by_another_process(capsys):
    """The worker imports the file itself, for the codec and for the data."""
    trained(capsys)
    options = ["data=stripes", "codec=runs/mine", "workers=1", "shard_items=3", "out=tokens"]
    assert "6 items" in succeed(capsys, "tokenize", "import=my_code.py", *options)
    assert len(list(Path("tokens").glob("*.tar"))) == 2
