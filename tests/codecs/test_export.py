"""Exported encoders and decoders give the codec's codes and signals at every size."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.codecs import TINY, one_line, scale_latents, structured, tiny

from tokenloom import codecs
from tokenloom.cli.main import main
from tokenloom.codecs import Modality, export, layers, registry
from tokenloom.codecs.audio import seanet
from tokenloom.codecs.export import exporting
from tokenloom.codecs.layers import tracing
from tokenloom.data import open_source

PACKS = Path(__file__).resolve().parents[3] / "shared" / "data"
SIZES = {Modality.IMAGE: [(1, 1), (45, 38), (7, 130), (64, 64)], Modality.AUDIO: [(1,), (5,), (3001,), (4096,)]}
ENCODEC = {
    "sample_rate": 24000, "filters": 4, "ratios": [4, 2, 2], "dim": 8, "codebook_size": 32, "lstm": 1,
    "bandwidths": [60.0, 120.0],
}  # fmt: skip


@functools.cache
def small(name: str) -> codecs.Codec:
    """Return a codec whose codes vary."""
    if name == "audio/rvq with an LSTM":
        torch.manual_seed(0)
        codec = codecs.build("audio/rvq", **TINY["audio/rvq"], lstm=2)
        scale_latents(codec)
        return codec
    if name == "audio/encodec":
        torch.manual_seed(0)
        codec = codecs.build(name, **ENCODEC)
        for q, book in enumerate(codec.quantizer.codebook):
            book.normal_().mul_(0.5**q)
        return codec
    return tiny(name)


@functools.cache
def written(name: str, format: str, setting: object = None) -> Path:
    """Export the codec once for all tests."""
    folder = Path(tempfile.mkdtemp()) / "export"
    found = export.export(small(name), folder, format, setting)
    assert found.tokens > 100 and found.differing <= 1e-3 * found.tokens and found.largest < 1e-4
    return folder


@functools.cache
def loaded(folder: Path, format: str):
    return export.load(folder, format)


def batch(codec: codecs.Codec, size: tuple[int, ...], count: int) -> torch.Tensor:
    return torch.cat([structured(codec, size, seed) for seed in range(count)])


def agree(codec: codecs.Codec, folder: Path, format: str, setting: object = None) -> None:
    """Compare codes and signals of batches with other sizes than the traced example."""
    encode, decode = loaded(folder, format)
    tokens = differing = 0
    for size in SIZES[codec.spec.modality]:
        for count in (1, 3):
            x = batch(codec, size, count)
            codes = codec.encode(x, setting)
            wanted = codes.indices
            if not codec.spec.stride:  # image/flex: one row by rank
                wanted = wanted.reshape(count, -1, *codec.tiles(size))
            found = encode(x)
            assert found.dtype == torch.int64 and found.shape == wanted.shape
            tokens, differing = tokens + wanted.numel(), differing + int((found != wanted).sum())
            decoded = decode(wanted)
            assert decoded.dtype == torch.float32 and decoded.aminmax()[0] >= (-1 if len(size) == 1 else 0)
            assert (decoded[(..., *(slice(n) for n in size))] - codec.decode(codes)).abs().max() < 1e-4
    assert differing <= 1e-3 * tokens
    places = [str(Path(export.__file__).parent).encode(), str(Path(torch.__file__).parent).encode(), b"tracing.py"]
    for path in folder.iterdir():  # nothing of the machine that wrote it
        assert not any(place in path.read_bytes() for place in places), path


@pytest.mark.parametrize("name", ["image/rvq", "image/ntc", "audio/rvq with an LSTM"])
def test_onnx_runtime_gives_the_codecs_codes_and_signals_at_every_size(name):
    agree(small(name), written(name, "onnx"), "onnx")


@pytest.mark.parametrize(
    "name",
    ["image/fsq", "image/bsq", "image/ntc", "image/flex", "audio/rvq", "audio/encodec"],
)
def test_a_torch_export_gives_the_codecs_codes_and_signals_at_every_size(name):
    agree(small(name), written(name, "torch.export"), "torch.export")


def test_the_setting_is_fixed_by_the_export():
    codec = small("image/rvq")
    folder = written("image/rvq", "torch.export", 2)
    agree(codec, folder, "torch.export", 2)
    config = json.loads((folder / "config.json").read_text())
    assert config["setting"]["value"] == 2 and config["encoder"]["output"]["shape"][1] == 2
    assert config["codebook_sizes"] == [32, 32]
    x = structured(codec, (45, 38))
    indices = codec.encode(x, 2).indices
    indices[:, 1] = -1  # a quantizer left out
    decoded = loaded(folder, "torch.export")[1](indices)[..., :45, :38]
    assert (decoded - codec.decode(codec.encode(x, 1))).abs().max() < 1e-5


def test_tiles_of_flex_may_have_fewer_tokens_than_others():
    codec = small("image/flex")
    decode = loaded(written("image/flex", "torch.export"), "torch.export")[1]
    x = structured(codec, (96, 48))
    full = codec.encode(x)
    table = full.indices.reshape(1, codec.tokens, 2, 1).clone()
    table[:, 3:, 1] = -1
    decoded = decode(table)
    even = [codec.decode(codec.truncate(full, count)) for count in (codec.tokens, 3)]
    assert (decoded[:, :, :48] - even[0][:, :, :48]).abs().max() < 1e-4
    assert (decoded[:, :, 48:] - even[1][:, :, 48:]).abs().max() < 1e-4
    assert (decode(table[:, :3]) - even[1]).abs().max() < 1e-4


def test_layers_compute_the_same_while_they_are_traced(monkeypatch):
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(6, 6, 2)
    x = torch.randn(11, 3, 6)
    assert (tracing.lstm(x, lstm) - lstm(x)[0]).abs().max() < 1e-5
    for norm, groups in (((2, 8, 5), 4), ((1, 8, 1), 2)):
        layer = torch.nn.GroupNorm(groups, 8)
        x = torch.randn(*norm) + 3
        assert (tracing.group_norm(x, layer) - layer(x)).abs().max() < 1e-4
    codec = small("audio/encodec")
    signals = [structured(codec, (samples,)) for samples in (1, 2, 6, 7, 33)]
    wanted = [codec.analyze(x) for x in signals]
    monkeypatch.setattr(tracing, "exporting", lambda: True)
    monkeypatch.delattr(seanet, "reflect")  # not the padding that depends on the length
    for x, latents in zip(signals, wanted, strict=True):
        assert (codec.analyze(x) - latents).abs().max() < 1e-5
    assert layers.GroupNorm(4, 8)(torch.ones(1, 8, 1, 1)).abs().max() == 0


def test_an_export_says_what_it_is_and_its_readme_runs():
    folder = written("image/rvq", "onnx")
    assert {path.name for path in folder.iterdir()} == {"encoder.onnx", "decoder.onnx", "config.json", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    codec = small("image/rvq")
    assert (config["name"], config["fingerprint"]) == (codec.name, codec.fingerprint.hex())
    assert config["encoder"]["input"] == {"name": "signal", "type": "float32", "shape": ["batch", 3, "height", "width"]}
    assert config["encoder"]["output"]["shape"] == ["batch", 3, "rows", "columns"]
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code + "print(indices.shape, decoded.shape)"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(1, 3, 6, 5) (1, 3, 45, 38)\n", done.stderr


def test_no_weights_travel_that_the_program_does_not_use():
    program = torch.export.load(written("image/ntc", "torch.export") / "encoder.pt2")
    assert program.state_dict and not [name for name in program.state_dict if "synthesis" in name or "context" in name]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image/jpeg", "audio/opus", "text/bpe", "text/bytes"])
def test_a_codec_that_is_no_network_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="a library computes its codes") as error:
        export.export(tiny(name), tmp_path / "out")
    assert one_line(error) and name in str(error.value) and not list(tmp_path.iterdir())


def test_chunks_of_a_sound_are_refused(tmp_path):
    codec = codecs.build("audio/encodec", sample_rate=48000, filters=4, ratios=[2, 2], dim=8, codebook_size=32, lstm=1,
                         bandwidths=[240.0])  # fmt: skip
    with pytest.raises(ValueError, match=r"chunks.* 48000 Hz") as error:
        export.export(codec, tmp_path / "out", "torch.export")
    assert one_line(error)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"format": "tflite"}, "unknown format 'tflite'; known: onnx, torch.export"),
        ({"format": "torch.export", "setting": 7}, "quantizers of image/rvq must be one of"),
    ],
)
def test_formats_and_settings_that_are_not_there_are_refused(arguments, line, tmp_path):
    with pytest.raises(ValueError, match=line) as error:
        export.export(tiny("image/rvq"), tmp_path / "out", **arguments)
    assert one_line(error) and not list(tmp_path.iterdir())


def test_onnx_is_an_extra(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(ValueError, match=r"needs onnxruntime.*pip install 'tokenloom\[export\]'") as error:
        export.export(tiny("image/fsq"), tmp_path / "out")
    assert one_line(error)


def test_a_folder_with_other_things_is_left_alone_and_an_export_is_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "encodec"}')
    (tmp_path / "file").write_text("a file")
    for name in ("notes", "foreign", "file"):
        with pytest.raises(ValueError, match=name) as error:
            export.export(tiny("image/fsq"), tmp_path / name, "torch.export")
        assert one_line(error)
    old = tmp_path / "old"
    old.mkdir()
    for name in ("encoder.onnx", "decoder.onnx", "README.md"):
        (old / name).write_text("an older export")
    (old / "config.json").write_text('{"format": "onnx"}')
    export.export(tiny("image/fsq"), old, "torch.export")
    assert {path.name for path in old.iterdir()} == {"encoder.pt2", "decoder.pt2", "config.json", "README.md"}
    assert json.loads((old / "config.json").read_text())["name"] == "image/fsq"


@pytest.mark.parametrize("stage", ["ready", "moving"])
def test_an_export_that_a_kill_cut_short_is_completed(stage, tmp_path):
    """The kill came while the files of the old one were removed, or while those of the new one were moved."""
    new = tmp_path / f".export.{stage}"
    new.mkdir()
    (tmp_path / "encoder.onnx").write_text("old" if stage == "ready" else "new")
    for name in ("decoder.onnx", "README.md"):
        (new / name).write_text("new")
    (new / "config.json").write_text('{"format": "onnx"}')
    exporting.check(tiny("image/fsq"), tmp_path, "torch.export")
    expected = {"decoder.onnx", "README.md", "config.json"} | ({"encoder.onnx"} if stage == "moving" else set())
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert (tmp_path / "decoder.onnx").read_text() == "new"


def test_another_arithmetic_is_found_out_and_nothing_is_left(tmp_path):
    @codecs.register("image/unlike")
    class Unlike(registry.codec_class("image/fsq")):
        """Codec whose codes do not come from its network and quantizer."""

        def _encode(self, x, setting):
            codes = super()._encode(x, setting)
            return codecs.Codes(codes.indices ^ 1, codes.sizes)

    try:
        codec = codecs.build("image/unlike", **TINY["image/fsq"])
        with pytest.raises(ValueError, match=r"image/unlike cannot be exported.* codes differ") as error:
            export.export(codec, tmp_path / "deep" / "out", "torch.export")
        assert one_line(error) and not list(tmp_path.iterdir())
    finally:
        registry._classes.pop("image/unlike")


def test_a_codec_that_looks_at_its_numbers_is_refused_in_one_line(tmp_path):
    @codecs.register("image/curious")
    class Curious(registry.codec_class("image/fsq")):
        """Codec whose computation depends on its input."""

        def analyze(self, x):
            return super().analyze(x if float(x.mean()) > 0.3 else 1 - x)

    try:
        codec = codecs.build("image/curious", **TINY["image/fsq"])
        with pytest.raises(ValueError, match="the encoder of image/curious cannot be traced: ") as error:
            export.export(codec, tmp_path / "out", "torch.export")
        assert one_line(error) and not list(tmp_path.iterdir())
    finally:
        registry._classes.pop("image/curious")


# -- the command, and what ships --------------------------------------------------------------------


def test_the_command_says_what_it_measured_and_nothing_else(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    codecs.save(small("image/rvq"), "mine")
    assert main(["export", "mine", "--format", "torch.export", "--setting", "1", "-o", "there"]) == 0
    out, err = capfd.readouterr()
    assert err == "tokenloom: exporting mine as torch.export …\n"
    assert out.startswith("there: encoder and decoder of mine, ") and " 0 of " in out and out.count("\n") == 1
    assert json.loads(Path("there/config.json").read_text())["setting"]["value"] == 1
    for arguments, line in (
        (["image/jpeg"], "image/jpeg cannot be exported"),
        (["mine", "--setting", "9"], "quantizers of mine must be one of (1, 2, 3), got 9"),
        (["mine", "--format", "coreml"], "unknown format 'coreml'; known: onnx, torch.export"),
        (["nothing"], "unknown codec 'nothing'"),
    ):
        assert main(["export", *arguments]) == 2
        err = capfd.readouterr().err.splitlines()[-1]
        assert err.startswith("tokenloom: ") and line in err


@pytest.fixture(scope="module")
def natural(tmp_path_factory):
    """Export a shipped codec to ONNX."""
    folder = tmp_path_factory.mktemp("natural") / "export"
    export.export(codecs.load("natural-fsq"), folder)
    return codecs.load("natural-fsq"), *export.load(folder, "onnx")


def same_codes(natural, pictures):
    codec, encode, decode = natural
    tokens = differing = 0
    for x in pictures:
        codes = codec.encode(x)
        tokens += codes.indices.numel()
        differing += int((encode(x) != codes.indices).sum())
        decoded = decode(codes.indices)[..., : x.shape[2], : x.shape[3]]
        assert (decoded - codec.decode(codes)).abs().max() < 1e-4
    assert tokens > 3000 and differing <= 1e-3 * tokens


def test_a_codec_that_ships_gives_the_same_codes_of_photographs(natural):
    same_codes(natural, [item.signal[None, :, 20:211, 30:313] for item in (open_source("images")[i] for i in range(4))])


@pytest.mark.skipif(not (PACKS / "bsds-test.tar").is_file(), reason="needs ../shared/data/bsds-test.tar")
def test_and_of_those_of_a_test_pack(natural):
    source = open_source("tar", path=str(PACKS / "bsds-test.tar"))
    same_codes(natural, [source[i].signal[None] for i in (0, 1)])


def test_the_snippet_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("exported").symlink_to(written("image/rvq", "onnx"))
    Image.new("RGB", (83, 61), (200, 90, 30)).save("photo.png")
    code = textwrap.dedent(
        """
        import onnxruntime
        from tokenloom import codecs

        encoder, decoder = (onnxruntime.InferenceSession(f"exported/{part}.onnx") for part in ("encoder", "decoder"))
        picture = codecs.read("photo.png")[None].numpy()
        indices = encoder.run(None, {"signal": picture})[0]
        decoded = decoder.run(None, {"indices": indices})[0][..., : picture.shape[2], : picture.shape[3]]
        """
    )
    scope: dict = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["decoded"].shape == scope["picture"].shape == (1, 3, 61, 83)
