"""`tokenloom talk`: answers as files, to a pipe and in a chat; errors of one line."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import refuse
from support.omni import picture, sound

from tokenloom import models
from tokenloom.cli.main import main
from tokenloom.codecs import media


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a picture and a sound."""
    monkeypatch.chdir(tmp_path)
    media.write(picture(), "face.png")
    media.write(sound(), "question.wav", sample_rate=8000)
    return tmp_path


def talk(capsys: pytest.CaptureFixture[str], model: str, *argv: str) -> tuple[str, str]:
    """Run a command that must succeed, and return its stdout and stderr."""
    capsys.readouterr()
    status = main(["talk", *argv, "--model", model])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


def loaded(model: str) -> models.Omni:
    omni = models.load(model)
    assert isinstance(omni, models.Omni)
    return omni


def expected(model: str, prompt: list, to: str = "audio") -> torch.Tensor:
    return loaded(model).generate(prompt, to, seed=3, best_of=1)[0]


def close(file: Any, signal: Any) -> bool:
    """Whether a file of 16 bits holds a sound."""
    read: Any = media.read(file)
    return read.shape == signal.shape and bool((read - signal).abs().max() < 1e-4)


def test_an_answer_in_a_file_is_that_of_generate(capsys, model):
    out, err = talk(capsys, model, "question.wav", "face.png", "--to", "audio", "-o", "answer.wav", "--seed", "3")
    assert re.fullmatch(r"answer\.wav: [\d.]+ s at 8000 Hz\n", out)
    assert re.search(r"first sound after [\d.]+ s; \d+ tokens in [\d.]+ s, \d+ tokens/s; seed 3\n", err)
    assert close("answer.wav", expected(model, [Path("question.wav"), Path("face.png")]))


def test_an_answer_to_a_pipe_is_a_wave_file(model):
    argv = ["talk", "question.wav", "--to", "audio", "-o", "-", "--seed", "3", "--model", model]
    done = subprocess.run([sys.executable, "-m", "tokenloom", *argv], capture_output=True, check=True)
    assert done.stdout[:4] == b"RIFF" and close(done.stdout, expected(model, [Path("question.wav")]))
    assert b"first sound" in done.stderr


def test_pictures_and_texts(capsys, model):
    out, err = talk(capsys, model, "red", "--to", "image", "-o", "answer.wav", "--seed", "3")
    assert out == "answer-1.png: an image of 24 x 32 pixels\n" and "the answer has no sound" in err
    drawn = media.read("answer-1.png")
    assert isinstance(drawn, torch.Tensor) and (drawn - expected(model, ["red"], "image")).abs().max() < 0.01
    assert not Path("answer.wav").exists()
    with pytest.warns(UserWarning, match="the context ended"):
        out, _ = talk(capsys, model, "red", "--to", "text", "--seed", "3")
        said = loaded(model).generate(["red"], "text", seed=3)[0]
    assert out == said + "\n"


def test_a_chat_keeps_its_turns(capsys, model, monkeypatch):
    """A line that cannot be answered is told, and does not count."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("red\nnosuch.wav\n\nface.png\n/new\nface.png\n/quit\nblue\n"))
    out, err = talk(capsys, model, "--to", "audio", "--seed", "3")
    assert [line.split(":")[0] for line in out.splitlines()] == ["answer-1.wav", "answer-2.wav", "answer-3.wav"]
    assert "tokenloom: there is no file nosuch.wav" in err
    chat = models.Conversation(loaded(model))
    first, second = (
        torch.cat(
            [piece.content for piece in chat.ask([line], "audio", seed=3) if isinstance(piece.content, torch.Tensor)], 1
        )
        for line in ("red", Path("face.png"))
    )
    assert close("answer-1.wav", first) and close("answer-2.wav", second)
    assert close("answer-3.wav", expected(model, [Path("face.png")])) and not close(
        "answer-2.wav", media.read("answer-3.wav")
    )


def test_mistakes_are_one_line(capsys, model, monkeypatch):
    Path("there.wav").write_bytes(b"x")
    for argv, says in (
        (["nosuch.wav"], "there is no file nosuch.wav"),
        (["x", "-o", "answer.png"], "the output must be a sound file, answer.png is for image"),
        (["x", "-o", "there.wav"], "there.wav exists; replace it with --force"),
        (["question.wav", "-o", "question.wav", "--force"], "question.wav is the input"),
        (["x", "-o", "no/answer.wav"], "no folder no"),
        (["x", "--steps", "2"], "--steps 2 needs a decoder"),
        (["-o", "-"], "-o - needs inputs"),
        (["x", "--to", "video"], "unknown channel or modality 'video'"),
        (["x", "--loud"], "unknown option --loud"),
    ):
        assert says in refuse(capsys, "talk", *argv, "--model", model)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    for option in ("--mic", "--play"):
        line = refuse(capsys, "talk", "x", option, "--model", model)
        assert line == "this needs sounddevice, which is not installed: pip install 'tokenloom[mic]'"
    assert {path.name for path in Path().iterdir()} == {"face.png", "question.wav", "there.wav"}
