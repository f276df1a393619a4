"""`tokenloom generate`: texts and files in, texts and files out, errors of one line."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
import torch
from support.cli import refuse
from support.omni import picture, sound, untrained_decoder

from tokenloom import models
from tokenloom.cli.commands.generate import GAP, grid
from tokenloom.cli.main import main
from tokenloom.codecs import media


def signal_of(path: str) -> torch.Tensor:
    """Return the image or the sound of a file."""
    signal = media.read(path)
    assert isinstance(signal, torch.Tensor)
    return signal


def loaded(folder: str) -> models.Omni:
    """Return the model of a folder."""
    omni = models.load(folder)
    assert isinstance(omni, models.Omni)
    return omni


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a picture, a sound and a text."""
    monkeypatch.chdir(tmp_path)
    media.write(picture(), "face.png")
    media.write(sound(), "seven.wav", sample_rate=8000)
    Path("notes.txt").write_text("red", encoding="utf-8")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], model: str, *argv: str) -> tuple[str, str]:
    """Run a command that must succeed, and return its stdout and stderr."""
    capsys.readouterr()
    status = main(["generate", *argv, "--model", model])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


def test_a_picture_and_its_cost(capsys, model):
    out, err = run(capsys, model, "red heart", "--to", "image", "-o", "heart.png", "--seed", "3", "--guidance", "2")
    assert out == "heart.png: an image of 24 x 32 pixels\n"
    assert signal_of("heart.png").shape == (3, 32, 24)
    expected = loaded(model).generate(["red heart"], "image", seed=3, guidance=2.0)[0]
    assert (signal_of("heart.png") - expected).abs().max() <= 0.5 / 255 + 1e-6
    found = re.search(r"15 tokens of prompt; 12 tokens: 87\.9 bits nominal, ([\d.]+) bits under the model", err)
    assert found and 20 < float(found[1]) < 300
    assert re.search(r"encode [\d.]+ s, transformer [\d.]+ s, decode [\d.]+ s; seed 3", err)


def test_a_picture_from_the_diffusion_decoder(capsys, model, tmp_path):
    decoder = untrained_decoder(tmp_path, "image/fsq")
    argv = ["red heart", "--to", "image", "--seed", "3", "--decoder", "diffusion", "--steps", "1"]
    run(capsys, model, *argv, "-o", "heart.png")
    expected = loaded(model).generate(["red heart"], "image", seed=3, decoder="diffusion", steps=1)[0]
    assert (signal_of("heart.png") - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert decoder is models.decoder_for(decoder.codec)


def test_sounds_texts_and_prompts_of_all_kinds(capsys, model):
    out, _ = run(capsys, model, "seven", "--to", "audio", "-o", "out.wav", "--seed", "0")
    assert re.fullmatch(r"out\.wav: [\d.]+ s at 8000 Hz\n", out) and media.sample_rate("out.wav") == 8000
    out, err = run(capsys, model, "seven.wav", "face.png", "notes.txt", "make it so", "--to", "text", "--seed", "1")
    prompt = [signal_of("seven.wav"), signal_of("face.png"), "red", "make it so"]
    assert out == loaded(model).generate(prompt, "text", seed=1)[0] + "\n" and "seed 1" in err
    run(capsys, model, "face.png", "--to", "text", "-o", "said.txt", "-n", "2", "--seed", "1")
    texts = loaded(model).generate([signal_of("face.png")], "text", n=2, seed=1)
    assert Path("said.txt").read_bytes().decode() == "".join(f"{text}\n" for text in texts)


def test_options_stand_anywhere(capsys, model):
    """Options may stand between segments, which argparse alone does not allow. The order of the segments stays."""
    expected = loaded(model).generate([signal_of("face.png"), "red"], "image", temperature=0)[0]
    for argv in (
        ["face.png", "--to", "image", "red"],
        ["--to", "image", "face.png", "red"],
        ["face.png", "red", "--to=image"],
    ):
        run(capsys, model, *argv, "--temperature", "0", "-o", "x.png", "--force")
        assert (signal_of("x.png") - expected).abs().max() < 0.01


def test_file_names_follow_the_prompt_and_overwrite_nothing(capsys, model):
    original = Path("seven.wav").read_bytes()
    names = [run(capsys, model, *argv)[0].split(":")[0] for argv in (
        ["Red Heart!", "--to", "image"], ["Red Heart!", "--to", "image"], ["face.png", "--to", "image"],
        ["face.png", "make it, dark", "--to", "pictures"], ["seven.wav", "--to", "audio"], ["--to", "image"],
        ["", "--to", "audio"],
    )]  # fmt: skip
    assert names == [
        "red-heart.png", "red-heart-2.png", "face-2.png", "make-it-dark.png", "seven-2.wav", "image.png", "audio.wav",
    ]  # fmt: skip
    assert all(Path(name).is_file() for name in names) and Path("seven.wav").read_bytes() == original


def test_several_pictures_form_a_grid_and_several_sounds_are_numbered(capsys, model):
    out, err = run(capsys, model, "red", "--to", "image", "-n", "5", "--seed", "0", "--top-k", "20", "--top-p", "0.9")
    assert out == "red.png: 5 images of 24 x 32 pixels\n" and "60 tokens in 5 results" in err
    sheet = signal_of("red.png")
    assert sheet.shape == (3, 2 * 32 + GAP, 3 * 24 + 2 * GAP)
    pictures = loaded(model).generate(["red"], "image", n=5, seed=0, top_k=20, top_p=0.9)
    assert (sheet[:, -32:, 24 + GAP : 48 + GAP] - pictures[4]).abs().max() < 0.01 and (sheet[:, -32:, -24:] == 1).all()
    out, _ = run(capsys, model, "seven", "--to", "audio", "-n", "2", "-o", "say.flac")
    assert [line.split(":")[0] for line in out.splitlines()] == ["say-1.flac", "say-2.flac"]
    assert Path("say-1.flac").is_file() and not Path("say.flac").exists()


def test_a_grid_of_unequal_pictures_has_a_white_background():
    sheet = grid([torch.zeros(3, 4, 6), torch.zeros(3, 2, 3)])
    assert sheet.shape == (3, 4, 12 + GAP) and (sheet == 0).sum() == 3 * (24 + 6)


def test_any_prints_texts_and_writes_the_rest(capsys, model, monkeypatch):
    results = [["one", picture(), sound()], ["two", picture()]]
    monkeypatch.setattr(models.Omni, "generate", _generate_with_results(results))
    out, _ = run(capsys, model, "three plus four", "-n", "2")
    base = "three-plus-four"
    assert out.splitlines() == ["one", f"{base}-1.png", f"{base}-2.wav", "two", f"{base}-3.png"]
    assert torch.equal(signal_of(f"{base}-2.wav"), signal_of("seven.wav"))
    out, _ = run(capsys, model, "x", "--to", "any", "-o", "y.png")
    assert out.splitlines() == ["one", "y-1.png", "y-2.wav", "two", "y-3.png"]


def _generate_with_results(results: list):
    """Return a `generate` that runs the model for its statistics, but returns these results."""
    original = models.Omni.generate

    def generate(self, *args, **options):
        original(self, *args, **options)
        return results

    return generate


def test_a_picture_of_another_size_is_resized_with_a_note(capsys, model):
    media.write(picture(50, 40), "big.png")
    _, err = run(capsys, model, "big.png", "--to", "image")
    assert "40 x 50 pixels was resized to the model's 24 x 32" in err


def test_misuse_is_one_line(capsys, model):
    gc.collect()  # removes the decoders of other tests
    for argv, says in (
        (["red", "--to", "video"], "unknown channel or modality 'video'"),
        (["absent.png", "--to", "text"], "there is no file absent.png"),
        (
            ["red", "--to", "image", "-o", "heart.wav"],
            "heart.wav is for audio, but --to image generates image",
        ),
        (["red", "--to", "image", "-o", "heart.xyz"], "heart.xyz"),
        (["red", "--to", "image", "-o", "no/heart.png"], "no folder no"),
        (["x" * 500, "--to", "image"], "a prompt of 503 tokens does not fit into the context of 160 tokens"),
        (["red", "--to", "image", "--decoder", "magic"], "unknown decoder 'magic'; known: plain, diffusion"),
        (["red", "--to", "flexible", "--decoder", "diffusion"], "channel flexible: no diffusion decoder"),
        (["red", "--to", "image", "--steps", "2"], "--steps 2 needs a decoder; add --decoder diffusion"),
        (["red", "--to", "image", "--decoder", "diffusion", "--steps", "few"], "--steps"),
        (["red", "--to", "image", "--temperature", "hot"], "--temperature"),
        (["red", "--to", "image", "--temperature", "-1"], "temperature must be a number of at least 0, got -1.0"),
        (["red", "--to", "image", "-n", "0"], "n must be an integer from 1 to 10000, got 0"),
        (["red", "--warmth", "3"], "unknown option --warmth"),
    ):
        line = refuse(capsys, "generate", *argv, "--model", model)
        assert says in line, line
    assert "unknown model 'nowhere'" in refuse(capsys, "generate", "red", "--to", "image", "--model", "nowhere")
    assert {p.name for p in Path().iterdir()} == {"face.png", "seven.wav", "notes.txt"}
