"""Names, checkpoints, untrusted files, and codecs of other packages."""

from __future__ import annotations

import copy
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import disk
from support.codecs import TINY, one_line, structured, tiny

from tokenloom import codecs, conf, data
from tokenloom.codecs import Codes, CodeSpec, LatentCodec, Modality, Settings, checkpoint, registry, storage
from tokenloom.codecs.quantizers import FSQ

PLUGIN = Path(__file__).parents[1] / "support" / "toy_plugin"


# -- names --------------------------------------------------------------------------------------


CHOICES = sorted(Path(conf.__path__[0], "codec").rglob("*.yaml"))


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_a_name_stands_for_one_architecture(path):
    """`codecs.build(NAME)` and `tokenloom train codec=NAME` build the same network."""
    config = {key: value for key, value in checkpoint.read_mapping(path).items() if value is not None}
    with torch.device("meta"):
        built, chosen = codecs.build(config["name"]), codecs.build(**config)
    assert chosen.spec == built.spec
    assert {k: v.shape for k, v in chosen.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}


def test_names_by_modality():
    assert codecs.names() == sorted(codecs.names("text") + codecs.names("image") + codecs.names(Modality.AUDIO))
    wanted = {
        *("image/jpeg", "image/webp", "image/avif", "image/jpeg2000", "image/png"),
        *("image/vqgan", "image/fsq", "image/bsq", "image/rvq"),
        *("audio/opus", "audio/vorbis", "audio/mp3", "audio/flac", "audio/rvq", "text/bytes", "text/bpe"),
    }
    assert wanted <= set(codecs.names())
    with pytest.raises(ValueError):
        codecs.names("video")


@pytest.mark.parametrize(
    ("name", "kwargs", "says"),
    [
        ("image/nothing", {}, "unknown codec 'image/nothing'"),
        ("jpeg", {}, "image/jpeg"),
        ("", {}, "unknown codec"),
        (None, {}, "unknown codec"),
        ("image/fsq", {"level": [8]}, "levels"),
        ("image/fsq", {"quantizer": 3}, "levels"),
        ("image/fsq", {"_target_": "os.system"}, "_target_"),
        ("image/png", {"quality": 3}, "no arguments"),
        ("image/fsq", {"stride": 7}, "power of two"),
        ("image/fsq", {"stride": "8"}, "stride"),
        ("image/fsq", {"stride": 16}, "stride must be patch · 2^(stages − 1) = 8"),
        ("image/fsq", {"widths": [8]}, "depths"),
        ("image/fsq", {"widths": "wide"}, "widths"),
        ("image/fsq", {"widths": [8, "a"]}, "widths"),
        ("image/fsq", {"widths": [8, -4]}, "widths"),
        ("image/fsq", {"widths": [8, 10**9]}, "widths"),
        ("image/fsq", {"depths": [1, 10**9]}, "depths"),
        ("image/fsq", {"depths": [1, 1.5]}, "depths"),
        ("image/fsq", {"depths": 3}, "depths"),
        ("image/fsq", {"patch": 0}, "patch"),
        ("image/fsq", {"patch": 3}, "patch"),
        ("image/fsq", {"levels": 8}, "levels"),
        ("image/vqgan", {"dim": 10**12}, "dim must be"),
        ("image/vqgan", {"codebook_size": 2**15}, "codebook_size must be"),
        ("image/bsq", {"bits": 10**9}, "bits"),
        ("audio/rvq", {"channels": 3}, "channels"),
        ("audio/rvq", {"channels": "mono"}, "channels"),
        ("audio/rvq", {"sample_rate": 0}, "sample_rate"),
        ("audio/rvq", {"sample_rate": 8000.5}, "sample_rate"),
        ("audio/rvq", {"ratios": [0]}, "ratios"),
        ("audio/rvq", {"ratios": 8}, "ratios"),
        ("audio/rvq", {"ratios": [10**9] * 4}, "ratios"),
        ("audio/rvq", {"filters": 0}, "filters"),
        ("audio/rvq", {"filters": 10**9}, "filters"),
        ("audio/rvq", {"residual": 10**9}, "residual"),
        ("audio/rvq", {"lstm": -1}, "lstm"),
        ("audio/rvq", {"quantizers": 0}, "quantizers"),
    ],
)
def test_what_cannot_be_built_is_one_line(name, kwargs, says):
    with pytest.raises(ValueError) as error:
        codecs.build(name, **kwargs)
    assert one_line(error) and says in str(error.value)


@pytest.mark.parametrize(
    "name", ["fsq", "image/", "video/x", "image/Fsq", "image/a b", "../image/x", "image/fsq/x", ""]
)
def test_names_that_cannot_be_registered(name):
    with pytest.raises(ValueError, match="codec name"):
        codecs.register(name)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="already registered"):
        codecs.register("image/png")(type("Other", (codecs.Codec,), {}))
    assert type(codecs.build("image/png")).__name__ == "Png"


# -- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("store", storage.STORES)
def test_saved_codecs_come_back_exactly(codec, store, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SMALLEST", 100)  # the codecs here are small
    codecs.save(codec, tmp_path / "mine", store=store, trained={"steps": 3})
    first, second = codecs.load(tmp_path / "mine"), codecs.load(str(tmp_path / "mine" / "model.safetensors"))
    x = structured(codec, {Modality.IMAGE: (20, 13), Modality.AUDIO: (500,), Modality.TEXT: (30,)}[codec.spec.modality])
    assert first.spec == codec.spec and first.settings == codec.settings and not first.training
    assert first.fingerprint == second.fingerprint and first.compress(x) == second.compress(x)
    weights = next(codec.parameters(), None) is not None
    if store == "float32" or not weights:
        assert first.fingerprint == codec.fingerprint and first.compress(x) == codec.compress(x)
        assert torch.equal(first.encode(x).indices, codec.encode(x).indices)
    again = tmp_path / "again"
    codecs.save(first, again, store=store)
    assert codecs.load(again).fingerprint == first.fingerprint
    assert sorted(p.name for p in again.iterdir()) == ["config.yaml", "model.safetensors"]
    if store != "float32" and any(value.is_floating_point() for value in codec.parameters()):
        assert (again / "model.safetensors").stat().st_size < 0.8 * sum(
            v.numel() * v.element_size() for v in codec.state_dict().values()
        )


def test_a_checkpoint_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = disk.record(monkeypatch)
    codecs.save(tiny("image/fsq"), tmp_path)
    assert events[:2] == ["flush", "flush"], "both files are on disk before one is renamed"
    assert sorted(events[2:4]) == ["config.yaml: flushed", "model.safetensors: flushed"]
    assert events[4:] == ["flush"], "the folder"


def test_half_keeps_what_it_cannot_hold(tmp_path):
    codec = copy.deepcopy(tiny("image/rvq"))
    codec.quantizer.codebook_sum[0, 0, 0] = 1e6
    codecs.save(codec, tmp_path, store="float16")
    assert codecs.load(tmp_path).quantizer.codebook_sum[0, 0, 0] == 1e6


def test_fingerprints_tell_apart():
    base = tiny("image/fsq")
    moved, counted = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        next(moved.parameters())[0] += 1e-3
    counted.counts[0, 0] += 1
    other = codecs.build("image/fsq", **{**TINY["image/fsq"], "levels": [4, 5, 8]})
    prints = {c.fingerprint for c in (base, moved, counted, other)}
    assert len(prints) == 4 and all(len(p) == 8 for p in prints)
    assert copy.deepcopy(base).fingerprint == base.fingerprint
    before = moved.fingerprint
    with torch.no_grad():
        next(moved.parameters()).mul_(2)
    assert moved.fingerprint != before, "a cached fingerprint follows the weights"


@pytest.fixture
def folder(tmp_path):
    codecs.save(tiny("image/fsq"), tmp_path / "good")
    return tmp_path / "good"


def refused(folder: Path, *says: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        codecs.load(folder)
    assert one_line(error) and all(word in str(error.value) for word in says), str(error.value)


def test_what_cannot_be_loaded_is_one_line(tmp_path, folder):
    refused(tmp_path / "absent")
    refused(tmp_path, "config.yaml")
    refused("no-such-name", "unknown codec")
    refused("image/nothing", "unknown codec")
    refused("image/fsq", "trained")
    refused("")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    refused(folder, "model.safetensors")


def test_a_shipped_name_is_found_wherever_one_stands(tmp_path, monkeypatch, folder):
    """Neither a file nor a folder of its name hides it; a folder with a checkpoint does."""
    monkeypatch.chdir(tmp_path)
    shipped = checkpoint.shipped_root() / "captions-bpe"
    Path("captions-bpe").touch()
    assert checkpoint.find("captions-bpe") == shipped
    Path("captions-bpe").unlink()
    Path("captions-bpe").mkdir()
    assert checkpoint.find("captions-bpe") == shipped
    (Path("captions-bpe") / "config.yaml").write_text("mine: true\n")
    assert checkpoint.find("captions-bpe") == shipped
    (container,) = codecs.load("captions-bpe").compress(["a red heart"])
    shutil.copytree(folder, "captions-bpe", dirs_exist_ok=True)
    assert codecs.load("captions-bpe").name == "image/fsq"
    assert codecs.decompress(container) == ["a red heart"], "a container finds the shipped codec"


def test_damaged_weights_are_one_line(folder):
    path = folder / "model.safetensors"
    good, rng = path.read_bytes(), random.Random(0)
    for cut in (0, 1, 7, 8, 9, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        refused(folder, "model.safetensors")
    path.write_bytes(b"\xff" * 8 + good[8:])
    refused(folder, "model.safetensors")
    for _ in range(60):
        damaged = bytearray(good)
        damaged[rng.randrange(8 + int.from_bytes(good[:8], "little"))] ^= rng.randint(1, 255)
        path.write_bytes(bytes(damaged))
        try:
            codecs.load(folder)
        except ValueError as error:
            assert "\n" not in str(error)


def test_weights_of_another_architecture_are_refused(tmp_path, folder):
    codecs.save(codecs.build("image/fsq", **{**TINY["image/fsq"], "widths": [8, 24]}), tmp_path / "wide")
    codecs.save(tiny("image/rvq"), tmp_path / "rvq")
    for other in ("wide", "rvq"):
        shutil.copy(tmp_path / other / "model.safetensors", folder)
        refused(folder, "architecture")


def test_damaged_configs_are_one_line(folder):
    path = folder / "config.yaml"
    good = path.read_text()
    bombs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    )
    for text in (
        "", "3", "[]", "codec:", "codec: []", "codec: {name: 3}", "codec: {levels: [8]}", "a: b: c", "\t", "codec: {",
        "{" * 50, "[" * 100_000, "codec: {name: image/fsq, nonsense: 1}", "codec: {name: image/fsq, levels: null}",
        good + "x: " + "y" * checkpoint.MAX_CONFIG_BYTES,
        bombs + "codec: {name: image/fsq, levels: *j}",
        "codec: {name: image/fsq, 3: 4}", "codec: {name: image/fsq, [1]: 2}",
        "codec: {name: image/fsq, levels: [2026-99-99]}",
    ):  # fmt: skip
        path.write_text(text)
        refused(folder)
    path.write_bytes(b"\xff\xfe\x00")
    refused(folder, "config.yaml")


def test_a_strangers_config_runs_nothing(folder, tmp_path):
    trace = tmp_path / "trace"
    command = f"touch {trace}"
    for text in (
        f"codec: {{name: image/fsq, _target_: os.system, command: {command}}}",
        f"codec: {{_target_: os.system, command: {command}}}",
        f"_target_: os.system\ncommand: {command}",
        f"codec: !!python/object/apply:os.system ['{command}']",
        f"codec: {{name: !!python/object/apply:os.system ['{command}']}}",
        f"codec: {{name: os.system, levels: ['{command}']}}",
        f"codec: {{name: image/fsq, levels: {{_target_: os.system, _args_: ['{command}']}}}}",
        "codec: {name: tokenloom.codecs.image.learned.ImageFSQ}",
    ):
        (folder / "config.yaml").write_text(text)
        refused(folder)
        assert not trace.exists()


def test_load_gives_what_needs_no_training():
    assert codecs.load("image/png").name == "image/png"
    for name in codecs.shipped():
        assert isinstance(codecs.load(name), LatentCodec) or name == "captions-bpe"


# -- a codec registered here --------------------------------------------------------------------


class Blocks(LatentCodec):
    """A toy codec: means of 4×4 blocks, a learned gain, and finite scalar quantization."""

    def __init__(self, levels: list[int] = (9, 9, 9)) -> None:
        spec = CodeSpec(Modality.IMAGE, (729,), (4, 4), 3, None, total=True, ordered=False, causal=False)
        super().__init__(spec, FSQ(list(levels)))
        self.gain = torch.nn.Parameter(torch.ones(3, 1, 1))

    def analyze(self, x):
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4), mode="replicate")
        return self.gain * (F.avg_pool2d(x, 4) * 2 - 1)

    def synthesize(self, latents):
        return (F.interpolate(latents, scale_factor=4) + 1) / 2


class Quantised(codecs.Codec):
    """A toy codec: pixels rounded to 2 to 5 bits."""

    spec = CodeSpec(Modality.IMAGE, (32, 32, 32), (1, 1), 3, None, total=True, ordered=False, causal=False)
    settings = Settings("bits", "", 3, (2, 3, 5), (2, 3, 4, 5))

    def _encode(self, x, setting):
        steps = 2**setting - 1
        indices = ((x * steps).round() * (31 / steps)).round().long()
        return Codes(indices, torch.tensor([list(x.shape[2:])] * len(x)))

    def _decode(self, codes):
        inside = torch.zeros(len(codes), 1, *codes.indices.shape[2:])
        for mask, (height, width) in zip(inside, codes.sizes.tolist(), strict=True):
            mask[:, :height, :width] = 1
        return codes.indices / 31 * inside


@pytest.fixture
def toys():
    for name, cls in (("image/toy-blocks", Blocks), ("image/toy-bits", Quantised)):
        codecs.register(name)(cls)
    yield
    for name in ("image/toy-blocks", "image/toy-bits"):
        registry._classes.pop(name)


@pytest.mark.parametrize("name", ["image/toy-blocks", "image/toy-bits"])
def test_a_toy_codec_needs_nothing_else(toys, name, tmp_path):
    assert name in codecs.names("image")
    codec = codecs.build(name)
    x = structured(codec, (21, 18))
    y = codec.decode(codec.encode(x))
    assert y.shape == x.shape and (x - y).abs().mean() < 0.15
    (container,) = codec.compress(x)
    assert torch.equal(codec.decompress([container]), y)
    for bad in (x[0], x.double(), x * 2, x[:, :1]):
        with pytest.raises(ValueError) as error:
            codec.encode(bad)
        assert one_line(error) and name in str(error.value)
    codecs.save(codec, tmp_path / "toy")
    loaded = codecs.load(tmp_path / "toy")
    assert loaded.compress(x) == [container]
    assert torch.equal(codecs.decompress(container), y)
    with pytest.raises(ValueError, match="takes no"):
        codecs.build(name, unknown=1)


def test_find_skips_codecs_without_defaults(toys, monkeypatch):
    monkeypatch.setattr(Quantised, "__init__", lambda self, needed: None)
    (container,) = codecs.build("image/png").compress(torch.zeros(1, 3, 2, 2))
    assert codecs.decompress(container).shape == (1, 3, 2, 2)
    with pytest.raises(codecs.BitstreamError, match="no codec with fingerprint"):
        codecs.codec.find(bytes(8))


def test_toy_codecs_are_compared(toys, tmp_path):
    from tokenloom.eval.compare import compare

    codecs.save(codecs.build("image/toy-blocks"), tmp_path / "blocks")
    source = data.open_source("scenes", count=2, size=48)
    compare(["image/toy-bits", "image/png", str(tmp_path / "blocks")], source, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {(r["codec"], r["setting"]) for r in results["records"]}
    assert {("image/toy-bits", 2), ("image/toy-bits", 3), ("image/toy-bits", 5), ("image/png", None)} <= rows
    assert any("blocks" in name for name, _ in rows)
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


# -- a codec from an installed package ----------------------------------------------------------

SCRIPT = """
import sys, torch
from tokenloom import codecs, data
assert "audio/mulaw" in codecs.names("audio"), codecs.names()
codec = codecs.build("audio/mulaw", sample_rate=8000)
x = torch.sin(torch.arange(801) / 9)[None, None] * 0.5
codes = codec.encode(x)
y = codec.decode(codes)
assert y.shape == x.shape and (x - y).abs().max() < 0.02
container, = codec.compress(x)
assert len(container) <= 801 + 32
assert torch.equal(codecs.decompress(codecs.build("audio/mulaw").compress(x)[0]), y)
for bad in (x[0], x.double(), x * 9):
    try:
        codec.encode(bad)
    except ValueError as error:
        assert "audio/mulaw" in str(error)
    else:
        raise AssertionError("bad input was taken")
from tokenloom.eval.compare import compare
source = data.open_source("phrases", count=2, seconds=1.0, sample_rate=8000)
compare(["audio/mulaw", "audio/flac"], source, sys.argv[1])
print("done")
"""


def test_a_codec_of_an_installed_package(tmp_path):
    shutil.copytree(PLUGIN, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(tmp_path / "site"), str(tmp_path / "source")],
        check=True,
        timeout=600,
    )
    program = f"import sys; sys.path.append({str(tmp_path / 'site')!r})\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    records = json.loads((tmp_path / "out" / "results.json").read_text())["records"]
    assert {r["codec"] for r in records} == {"audio/mulaw", "audio/flac"}


def test_a_broken_package_is_named_and_left_out(tmp_path):
    """An import error of one package must not disable the other codecs."""
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tokenloom.codecs]\nimage/broken = no_such_module:Codec\n")
    program = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "from tokenloom import codecs\nprint(len(codecs.names()), 'image/broken' in codecs.names())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(codecs.names())), "False"]
    assert "image/broken" in done.stderr and "no_such_module" in done.stderr
