"""The command line: files in and out, errors of one line, fast help."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from support.cli import refuse, succeed
from support.codecs import tiny

from tokenloom import codecs, models
from tokenloom.cli import commands, jobs, paths
from tokenloom.cli.main import main
from tokenloom.cli.overrides import quote
from tokenloom.codecs import media

TINY = [
    "codec=image/fsq", "codec.widths=[8,16]", "codec.depths=[1,1]", "codec.decoder_depths=[1,1]",
    "data=folder", "data.path=pictures", "steps=2", "batch_size=2", "crop.size=32", "losses.l1=1", "device=cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a picture, a stereo sound, a text and a folder of four pictures."""
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[0:61, 0:83]
    picture = np.stack([3 * x, 4 * y, x + y], -1).astype(np.uint8)
    Image.fromarray(picture).save("photo.png")
    Path("pictures").mkdir()
    for i in range(4):
        Image.fromarray(np.roll(picture, 9 * i, 0)).save(f"pictures/{i}.png")
    t = np.arange(9_000) / 44_100
    soundfile.write("song.wav", np.stack([0.3 * np.sin(2764 * t), 0.2 * np.sin(4021 * t)], -1), 44_100)
    Path("notes.txt").write_text("naïve café\n", encoding="utf-8")
    return tmp_path


# -- help -------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tokenloom.cli.commands import COMMANDS\nfrom tokenloom.cli.main import main\n"
        "for argv in (['--help'], *([name, '--help'] for name in COMMANDS)):\n"
        "    try: main(argv)\n    except SystemExit as stop: assert stop.code == 0\n"
        "print([m for m in ('torch', 'numpy', 'hydra', 'omegaconf', 'rich', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_takes_less_than_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tokenloom", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("codecs", "--json"), ("encode", "--psnr"), ("decode", "back.png"), ("evaluate", "CODEC"),
        ("train", "audio/rvq, image/bsq, image/flex, image/fsq"), ("compare", "folder, hub, images"),
    ],
)  # fmt: skip
def test_help_shows_choices_and_examples(capsys: pytest.CaptureFixture[str], command: str, said: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert said in text
    assert f"examples:\n  tokenloom {command}" in text


def test_every_command_and_job_has_its_module() -> None:
    for name in commands.COMMANDS:
        assert callable(commands.module(name).arguments) and callable(commands.module(name).run)
    for job in jobs.JOBS.values():
        assert callable(getattr(importlib.import_module(job.module), job.function))


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "tokenloom", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tokenloom ")


# -- codecs -----------------------------------------------------------------------------------------


def test_codecs_lists_every_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.loads(succeed(capsys, "codecs", "--json"))
    assert sorted(e["name"] for e in listed) == sorted([*codecs.names(), *codecs.shipped()])
    jpeg = next(e for e in listed if e["name"] == "image/jpeg")
    assert jpeg["bits_per_token"] == [8.0] and "license" not in jpeg
    assert next(e["license"] for e in listed if e["name"] == "digits-rvq") == "CC-BY-SA-4.0"
    assert jpeg["setting"]["default"] == codecs.build("image/jpeg").settings.default
    monkeypatch.setenv("COLUMNS", "80")
    table = succeed(capsys, "codecs")
    assert all(name in table for name in (*codecs.names(), *codecs.shipped()))
    assert max(map(len, table.splitlines())) <= 90 and "CC-BY" in table


# -- encode and decode ------------------------------------------------------------------------------


def test_picture_round_trip(capsys: pytest.CaptureFixture[str]) -> None:
    said = succeed(capsys, "encode", "photo.png", "--codec", "image/png", "--measure")
    assert said.endswith(" by image/png\n")
    size = Path("photo.tlm").stat().st_size
    assert f"photo.tlm: {size} bytes" in said
    assert f"{8 * size / (61 * 83):.4f} bits per pixel" in said
    assert "PSNR inf dB" in said
    assert "83 x 61 pixels from" in succeed(capsys, "decode", "photo.tlm", "-o", "back.png")
    assert media.read("back.png").equal(media.read("photo.png"))


def test_setting_by_value_and_by_target(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {}
    for option in ("--setting=10", "--setting=90", "--psnr=40", "--bpp=1.3"):
        said = succeed(capsys, "encode", "photo.png", "-o", "q.tlm", "--force", "--codec", "image/jpeg", option)
        sizes[option] = Path("q.tlm").stat().st_size
        if option == "--psnr=40":
            assert float(said.split("PSNR ")[1].split()[0]) >= 40
    assert sizes["--setting=10"] < sizes["--setting=90"]
    assert 8 * sizes["--bpp=1.3"] / (61 * 83) <= 1.3
    assert not list(Path().glob(".*.part"))


@pytest.mark.parametrize("name", ["audio/opus", "audio/flac"])
def test_sound_keeps_its_rate_and_channels(capsys: pytest.CaptureFixture[str], name: str) -> None:
    said = succeed(capsys, "encode", "song.wav", "-o", "s.tlm", "--codec", name)
    assert "44100 Hz stereo" in said
    assert "kbit/s" in said
    succeed(capsys, "decode", "s.tlm", "-o", "back.wav")
    song, back = media.read("song.wav"), media.read("back.wav")
    assert media.sample_rate("back.wav") == 44_100
    assert back.shape == song.shape
    if name == "audio/flac":
        assert back.equal(song)


def test_unusual_rates_and_channels_are_converted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    soundfile.write("odd.wav", np.tile(0.3 * np.sin(np.arange(5_000) / 9)[:, None], (1, 6)), 37_000)
    assert "44100 Hz mono" in succeed(capsys, "encode", "odd.wav", "--codec", "audio/flac")
    succeed(capsys, "decode", "odd.tlm", "-o", "back.wav")
    assert media.read("back.wav").shape == (1, 5_960)  # ceil(5000 · 44100 / 37000)


def test_pipes() -> None:
    """`-` is standard input and standard output. What is said goes to standard error."""
    assert main(["encode", "photo.png", "--codec", "image/png"]) == 0
    tool = f"{sys.executable} -m tokenloom"
    command = f"set -o pipefail; cat photo.png | {tool} encode - -o - -c image/png | tee pipe.tlm | {tool} decode -"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0 and Path("pipe.tlm").read_bytes() == Path("photo.tlm").read_bytes(), done.stderr
    assert media.read(done.stdout).equal(media.read("photo.png"))
    assert sorted(line.partition(": ")[0] for line in done.stderr.decode().splitlines()) == ["-", "-"]
    assert main(["encode", "photo.png", "--codec", "image/png", "-o", "./-"]) == 0
    assert Path("-").read_bytes() == Path("photo.tlm").read_bytes()
    command = f"cat photo.png | {tool} encode - -c image/png -o again.tlm"  # from the pipe, though there is a file -
    subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert Path("again.tlm").read_bytes() == Path("photo.tlm").read_bytes()


@pytest.mark.parametrize(
    ("argv", "given", "said"),
    [
        ("encode - -c audio/flac -o s.tlm", "song.wav", "44100 Hz stereo by audio/flac"),
        ("encode -", "song.wav", "encode needs --codec; tokenloom codecs lists all"),
        ("encode - -c image/png", "/dev/null", "the bytes cannot be read as an image"),
        ("decode -", "song.wav", "-: a container must start with b'tlm'"),
    ],
)
def test_standard_input_is_read_as_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: str, given: str, said: str
) -> None:
    with open(given, encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(argv.split()) == (0 if "s.tlm" in argv else 2)
    text = "".join(capsys.readouterr())
    assert said in text and text.count("\n") == 1, text


def test_a_result_for_a_closed_or_full_stream_is_not_lost_in_silence() -> None:
    script = """
    $tool decode - <&-
    $tool encode photo.png -c image/png -o - >&-
    $tool encode photo.png -c image/png -o - >/dev/full
    """
    script = script.replace("$tool", f"{sys.executable} -m tokenloom")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "tokenloom: standard input is closed; name a file",
        "tokenloom: standard output: it is closed",
        "tokenloom: standard output: No space left on device",
    ]


def test_text_round_trip(capsys: pytest.CaptureFixture[str]) -> None:
    succeed(capsys, "encode", "notes.txt", "--codec", "text/bytes")
    succeed(capsys, "decode", "notes.tlm", "-o", "back.txt")
    assert Path("back.txt").read_bytes() == Path("notes.txt").read_bytes()


def test_a_trained_codec_is_named_by_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    bpe = codecs.registry.codec_class("text/bpe").train_from_iterator(["café au lait", "naïve"] * 4, vocab_size=270)
    codecs.save(bpe, "mine")
    del bpe
    succeed(capsys, "encode", "notes.txt", "--codec", "mine")
    gc.collect()
    assert "no available codec has the fingerprint" in refuse(capsys, "decode", "notes.tlm", "-o", "back.txt")
    assert not Path("back.txt").exists()
    succeed(capsys, "decode", "notes.tlm", "-o", "back.txt", "--codec", "mine")
    assert Path("back.txt").read_bytes() == Path("notes.txt").read_bytes()


def test_decode_does_not_overwrite_the_original(capsys: pytest.CaptureFixture[str]) -> None:
    succeed(capsys, "encode", "photo.png", "--codec", "image/jpeg")
    original = Path("photo.png").read_bytes()
    assert "photo.png exists" in refuse(capsys, "decode", "photo.tlm")
    assert Path("photo.png").read_bytes() == original
    Path("photo.png").rename("elsewhere.png")
    succeed(capsys, "decode", "photo.tlm")
    assert media.read("photo.png").shape == (3, 61, 83)


def decoder_of(codec: str, folder: str) -> models.DiffusionDecoder:
    """Write an untrained decoder of a codec to a folder. `--decoder diffusion` finds it while it is referenced."""
    models.save(models.build_decoder({"codec": codec, "widths": [8, 16], "depths": [1, 1]}), folder)
    return models.load(folder)


def test_decode_with_a_diffusion_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    codecs.save(tiny("image/fsq"), "mine")
    succeed(capsys, "encode", "photo.png", "--codec", "mine")
    decoder = decoder_of("mine", "my-decoder")
    codes = decoder.codec.encode(media.read("photo.png")[None])
    said = succeed(capsys, "decode", "photo.tlm", "-o", "usual.png", "--decoder", "diffusion")
    assert f"decoded by diffusion in {decoder.steps} steps" in said
    assert (media.read("usual.png") - decoder.decode(codes)[0]).abs().max() <= 0.5 / 255 + 1e-6
    succeed(capsys, "decode", "photo.tlm", "-o", "plain.png")
    assert not media.read("plain.png").equal(media.read("usual.png"))
    options = ["--decoder", "my-decoder", "--steps", "2", "--seed", "3"]
    said = succeed(capsys, "decode", "photo.tlm", "-o", "named.png", *options)
    assert "83 x 61 pixels from" in said and "by image/fsq, decoded by my-decoder in 2 steps" in said
    expected = decoder.decode(codes, steps=2, seed=3)[0]
    assert (media.read("named.png") - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_a_decoder_folder_includes_its_codec(capsys: pytest.CaptureFixture[str]) -> None:
    codecs.save(tiny("image/bsq"), "mine")
    succeed(capsys, "encode", "photo.png", "--codec", "mine")
    decoder_of("mine", "my-decoder")
    Path("mine").rename("elsewhere")
    gc.collect()
    succeed(capsys, "decode", "photo.tlm", "-o", "back.png", "--decoder", "my-decoder", "--steps", "1")
    assert media.read("back.png").shape == (3, 61, 83)


def test_misuse_of_decoders_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    codecs.save(tiny("image/fsq"), "mine")
    codecs.save(tiny("image/bsq"), "other")
    fingerprints = [codecs.load(name).fingerprint.hex() for name in ("other", "mine")]
    succeed(capsys, "encode", "photo.png", "--codec", "mine")
    succeed(capsys, "encode", "notes.txt", "--codec", "text/bytes")
    kept = codecs.load("mine")  # keeps the codec of the file available
    decoder_of("other", "wrong")
    gc.collect()  # removes the decoders of other tests
    decode = ["decode", "photo.tlm", "-o", "back.png"]
    for argv, said in (
        ([*decode, "--decoder", "wrong"], "wrong decodes image/bsq ({}), not image/fsq ({})".format(*fingerprints)),
        ([*decode, "--decoder", "nosuch"], "nosuch"),
        ([*decode, "--decoder", "pictures"], "pictures"),
        ([*decode, "--decoder", "omni-small"], "omni-small describes no decoder"),
        ([*decode, "--decoder", "diffusion"], "no diffusion decoder for this image/fsq"),
        (["decode", "notes.tlm", "-o", "back.txt", "--decoder", "diffusion"], "text/bytes"),
        ([*decode, "--steps", "2"], "--steps 2 needs a decoder; name one with --decoder"),
        ([*decode, "--seed", "2"], "--seed 2 needs a decoder; name one with --decoder"),
        ([*decode, "--decoder", "wrong", "--steps", "few"], "--steps: invalid int value: 'few'"),
    ):
        assert said in refuse(capsys, *argv)
    right = decoder_of("mine", "right")
    for option, value, said in (
        ("--steps", "0", "steps must be an integer from 1 to 1000, got 0"),
        ("--seed", "-1", "seed must be an integer from 0"),
    ):
        assert said in refuse(capsys, *decode, "--decoder", "right", option, value)
    assert right.codec.fingerprint == kept.fingerprint and not list(Path().glob("back.*"))


ENCODE = ["encode", "photo.png", "-o", "out.tlm", "--codec"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no command"),
        (["weave"], "'weave'"),
        (["codecs", "--yaml"], "unknown option --yaml"),
        (["codecs", "more"], "unknown codec 'more'"),
        (["encode", "photo.png"], "encode needs --codec; for image choose"),
        ([*ENCODE, "image/nosuch"], "unknown codec 'image/nosuch'"),
        ([*ENCODE, "nosuch"], "unknown codec 'nosuch'"),
        ([*ENCODE, "pictures"], "must hold config.yaml or config.json"),
        ([*ENCODE, "image/fsq"], "image/fsq must be trained first"),
        ([*ENCODE, "text/bpe"], "text/bpe must be trained first"),
        ([*ENCODE, "image/jpeg", "--setting", "300"], "quality of image/jpeg must be one of"),
        ([*ENCODE, "image/jpeg", "--setting", "good"], "got good"),
        ([*ENCODE, "image/png", "--setting", "3"], "image/png has no setting"),
        ([*ENCODE, "image/jpeg", "--psnr", "abc"], "'abc'"),
        ([*ENCODE, "image/jpeg", "--psnr", "-3"], "must be a positive number, got -3"),
        ([*ENCODE, "image/jpeg", "--psnr", "99"], "out of reach"),
        ([*ENCODE, "image/jpeg", "--kbps", "9"], "is for audio codecs"),
        ([*ENCODE, "image/jpeg", "--bpp", "1", "--setting", "3"], "not allowed with"),
        ([*ENCODE, "audio/opus"], "audio/opus is for audio, photo.png is an image"),
        (["encode", "nosuch.png", "--codec", "image/png"], "there is no file nosuch.png"),
        (["encode", "pictures", "--codec", "image/png"], "pictures is a folder"),
        (["encode", "notes.txt", "--codec", "image/png"], "image/png is for image, notes.txt is text"),
        (["encode", "photo.png", "--codec", "image/png", "-o", "photo.png"], "photo.png is the input"),
        (["encode", "photo.png", "--codec", "image/png", "-o", "pictures"], "pictures is a folder"),
        (["encode", "photo.png", "--codec", "image/png", "-o", "no/out.tlm"], "there is no folder no"),
        (["encode", "photo.png", "--codec", "image/png", "-o", "notes.txt/out.tlm"], "there is no folder notes.txt"),
        (["encode", "photo.png", "--codec", "image/png", "-o", "/dev/null"], "must be a regular file"),
        (["decode", "nosuch.tlm"], "there is no file nosuch.tlm"),
        (["decode", "pictures"], "pictures is a folder"),
        (["decode", "notes.txt"], "a container must start with"),
    ],
)
def test_misuse_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert said in refuse(capsys, *argv)
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures").chmod(0o500)
    assert "cannot be written" in refuse(capsys, *ENCODE[:3], "pictures/out.tlm", "--codec", "image/png")


def test_damaged_containers(capsys: pytest.CaptureFixture[str]) -> None:
    succeed(capsys, "encode", "photo.png", "--codec", "image/jpeg")
    whole = Path("photo.tlm").read_bytes()
    Path("photo.tlm").write_bytes(whole[:100])
    assert "photo.tlm: the container is damaged" in refuse(capsys, "decode", "photo.tlm", "-o", "back.png")
    Path("photo.tlm").write_bytes(whole)
    assert "not by image/png" in refuse(capsys, "decode", "photo.tlm", "-o", "back.png", "--codec", "image/png")
    assert "holds image" in refuse(capsys, "decode", "photo.tlm", "-o", "back.wav")
    assert "the suffix must be one of" in refuse(capsys, "decode", "photo.tlm", "-o", "back.xyz")
    assert not list(Path().glob("back.*"))


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--debug", "decode", "nosuch.tlm"], ["decode", "nosuch.tlm", "--debug"]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-1].startswith("tokenloom: there is no file")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_prints_one_line_and_returns_130(number: signal.Signals) -> None:
    os.mkfifo("pipe.tlm")
    command = [sys.executable, "-m", "tokenloom", "decode", "pipe.tlm"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    pipe = None
    while pipe is None and child.poll() is None:
        try:
            pipe = os.open("pipe.tlm", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO until the child reads
            time.sleep(0.01)
    assert pipe is not None, child.stderr.read()
    child.send_signal(number)
    os.close(pipe)  # wakes a child that got the signal just before it began to wait
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err == "tokenloom: interrupted\n"


# -- train and compare ------------------------------------------------------------------------------


def test_train_writes_a_codec_that_encodes(capsys: pytest.CaptureFixture[str]) -> None:
    said = succeed(capsys, "train", "task=codec", *TINY, "out=runs/mine")
    assert said == "runs/mine\n"
    assert Path("runs/mine/.hydra/overrides.yaml").is_file()
    succeed(capsys, "encode", "photo.png", "--codec", "runs/mine")
    succeed(capsys, "decode", "photo.tlm", "-o", "back.png", "--codec", "runs/mine")
    assert media.read("back.png").shape == (3, 61, 83)
    assert "already holds a run" in refuse(capsys, "train", *TINY, "out=runs/mine")
    succeed(capsys, "train", *TINY, "out=runs/mine", "resume=true")


def test_each_job_of_a_sweep_has_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    succeed(capsys, "train", *TINY, "-m", "seed=0,1", "out=sweep")
    first, second = codecs.load("sweep/0"), codecs.load("sweep/1")
    assert first.fingerprint != second.fingerprint


def test_a_failed_job_does_not_end_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", *TINY, "ema=0.9", "batch_size=0,2", "out=sweep"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokenloom:")]
    assert line.startswith("tokenloom: job 0: batch_size must be an integer of at least 1, got 0")
    assert codecs.load("sweep/1").name == "image/fsq"


def test_configuration_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lr: 0.5" in succeed(capsys, "train", "optimizer.lr=0.5", "--cfg", "job", "-p", "optimizer")
    assert "codec/image/bsq" in succeed(capsys, "train", "codec=image/bsq", "--info", "defaults")
    assert not Path("runs").exists()


def test_compare_and_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    data = ["data=folder", "data.path=pictures", "items=1"]
    assert "out/report.html" in succeed(capsys, "compare", "codecs=[image/jpeg,image/png]", *data, "out=out")
    assert json.loads(Path("out/results.json").read_text())
    assert Path("out/.hydra/overrides.yaml").is_file()
    succeed(capsys, "evaluate", "image/png", *data, "out=one")
    assert Path("one/results.json").is_file()


def test_values_that_hydra_cannot_read_are_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures").rename("my pictures (1)=new")
    Path("runs").mkdir()
    bpe = codecs.registry.codec_class("text/bpe").train_from_iterator(["café"], vocab_size=257)
    codecs.save(bpe, "runs/a=b")
    data = ["data=folder", "data.path=my pictures (1)=new"]
    line = refuse(capsys, "compare", "codecs=[runs/a=b]", *data, "data.modality=text")
    assert "cannot read" not in line
    assert "my pictures (1)=new" in line or "runs/a=b" in line


def test_quoting() -> None:
    untouched = [
        "steps=3", "codecs=[image/jpeg,natural-fsq]", "seed=range(0,3)", "crop.size=${batch_size}", "rate={kbps: 6}",
        "data.path='it(1).tar'", "seed=0,1", "codecs=[image/jpeg", "data.path=[a,b]", "data.path=null", "~codec", "foo",
    ]  # fmt: skip
    assert [quote(override) for override in untouched] == untouched
    assert quote("data.path=/x/it(1).tar") == 'data.path="/x/it(1).tar"'
    assert quote("codecs=[runs/a=b, image/jpeg]") == 'codecs=["runs/a=b",image/jpeg]'


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["codec=image/fsq"], "no data chosen"),
        (["codec=image/fsq", "data=folder"], "data=folder needs data.path"),
        (["codec=image/fsq", "data=folder", "data.path=nosuch"], "nosuch"),
        (["codec=image/fsq", "data=folder", "data.path=photo.png"], "photo.png"),
        (["codec=image/fsqq"], "unknown codec 'image/fsqq' (did you mean image/fsq?)"),
        (["data=foldr"], "unknown data 'foldr' (did you mean folder?); known: demo"),
        (["experiment=nosuch"], "unknown experiment 'nosuch'; known: "),
        (["stepz=3"], "unknown key 'stepz' (did you mean steps?)"),
        (["optimizer.lrr=3"], "unknown key 'optimizer.lrr' (did you mean optimizer.lr?)"),
        (["losses.dists=1"], "unknown key 'losses.dists'; known: losses.l1, losses.l2"),
        (["codec=image/fsq", "codec.levls=[8]"], "did you mean codec.levels?"),
        (["data.path=x"], "choose one with data="),
        (["steps=abc"], "steps=abc is wrong: it must be a whole number"),
        (["optimizer.lr=abc"], "optimizer.lr=abc is wrong: it must be a number"),
        (["resume=maybe"], "maybe: there is no run.json; no run began there"),
        (["steps=null"], "steps=null"),
        (["steps=1,2"], "a sweep with -m"),
        (["crop.size=${nosuch}"], "nosuch"),
        (["steps"], "must have the form key=value, got 'steps'"),
        (["data.path=[a"], "cannot read data.path=[a"),
        (["--stepz"], "unknown option --stepz"),
        (["precision=8-bit", *TINY], "precision must be one of auto, 32-true, bf16-mixed, 16-mixed, got '8-bit'"),
        ([*TINY, "out=photo.png"], "photo.png"),
        ([*TINY, "resume=true"], "begin the run without resume"),
    ],
)
def test_train_misuse_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert said in refuse(capsys, "train", *argv)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["codecs=[image/nosuch]"], "unknown codec 'image/nosuch'"),
        (["codecs=[image/jpeg"], "cannot read codecs=[image/jpeg"),
        (["codecs=[]"], "codecs is empty"),
        (["codecz=[image/jpeg]"], "unknown key 'codecz' (did you mean codecs?)"),
        (["items=abc"], "items=abc is wrong: it must be a whole number"),
        (["seed=abc"], "seed=abc is wrong"),
        (["anchor=nosuch"], "nosuch"),
        (["protocols=[nosuch]"], "nosuch"),
        (["data=tar"], "data=tar needs data.path"),
        (["data=tar", "data.path=nosuch.tar"], "nosuch.tar"),
        (["data=tar", "data.path=notes.txt"], "notes.txt"),
    ],
)
def test_compare_misuse_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert said in refuse(capsys, "compare", *argv)


def test_bug_keeps_its_traceback() -> None:
    code = (
        "from tokenloom import codecs\nfrom tokenloom.cli.main import main\n"
        "codecs.registry.codec_class('image/png').options = lambda *_: 1 / 0\n"
        "main(['encode', 'photo.png', '--codec', 'image/png'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_file_that_came_meanwhile_is_replaced_with_force_alone(command, folder, monkeypatch, capsys):
    succeed(capsys, "encode", "photo.png", "-o", "done.tlm", "--codec", "image/png")
    monkeypatch.setattr(paths, "check_output", lambda *_, **__: Path("out.png").write_text("of another command"))
    argv = ["encode", "photo.png", "--codec", "image/png"] if command == "encode" else ["decode", "done.tlm"]
    said = refuse(capsys, *argv, "-o", "out.png")
    assert said == "out.png exists; replace it with --force, or name another file with -o"
    assert Path("out.png").read_text() == "of another command"
    succeed(capsys, *argv, "-o", "out.png", "--force")
    assert Path("out.png").read_bytes() != b"of another command"
