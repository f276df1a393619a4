"""Names of devices, and the choice among those of a machine."""

from __future__ import annotations

import json

import pytest
import torch

from tokenloom import codecs, devices, models
from tokenloom.cli.main import main

CPU, CUDA, MPS = torch.device("cpu"), [torch.device("cuda", i) for i in range(2)], torch.device("mps", 0)


def machine(monkeypatch, *, gpus=0, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("has", "name", "expected"),
    [
        ({}, "auto", CPU),
        ({}, "cpu", CPU),
        ({"gpus": 2}, "auto", CUDA[0]),
        ({"gpus": 2}, "cuda", torch.device("cuda")),
        ({"gpus": 2}, "cuda:1", CUDA[1]),
        ({"gpus": 2}, CUDA[1], CUDA[1]),
        ({"gpus": 2}, "cpu", CPU),
        ({"mps": True}, "auto", MPS),
        ({"mps": True}, "mps", torch.device("mps")),
    ],
)
def test_resolve(has, name, expected, monkeypatch):
    machine(monkeypatch, **has)
    assert devices.resolve(name) == expected


@pytest.mark.parametrize(
    ("has", "name", "there"),
    [
        ({}, "cuda", "(cpu)"),
        ({}, "mps", "(cpu)"),
        ({}, "tpu", "(cpu)"),
        ({}, "", "(cpu)"),
        ({}, "meta", "(cpu)"),
        ({}, "AUTO", "(cpu)"),
        ({"gpus": 2}, "cuda:2", "(cpu, cuda:0, cuda:1)"),
        ({"mps": True}, "cuda", "(cpu, mps:0)"),
    ],
)
def test_an_absent_device_is_one_line_that_names_those_there(has, name, there, monkeypatch):
    machine(monkeypatch, **has)
    with pytest.raises(ValueError) as error:
        devices.resolve(name)
    text = f"device must be auto or one that PyTorch finds on this machine {there}, got {name!r}"
    assert str(error.value) == text


def test_describe_names_the_processor(monkeypatch):
    assert devices.describe(CPU) == f"cpu ({devices.processor()})" and len(devices.processor()) > 2
    machine(monkeypatch, gpus=2)
    assert devices.describe(CUDA[1]) == "cuda:1 (GPU 1)"
    assert devices.describe(torch.device("cuda")) == "cuda:0 (GPU 0)"


@pytest.mark.parametrize(
    "load",
    [
        lambda: codecs.load("digits-rvq", device="cuda"),
        lambda: codecs.load("image/jpeg", device="cuda"),
        lambda: codecs.load({"name": "image/jpeg"}, device="cuda"),
        lambda: codecs.build("image/fsq", device="cuda"),
        lambda: models.load("omni-small", device="cuda"),
    ],
)
def test_loading_names_the_devices_before_it_reads_weights(load, monkeypatch):
    machine(monkeypatch)
    monkeypatch.setattr(codecs.checkpoint, "weights", lambda folder: pytest.fail("the weights were read"))
    with pytest.raises(ValueError, match=r"device must be auto or one .* \(cpu\), got 'cuda'"):
        load()


@pytest.mark.parametrize(
    "command",
    [
        ["encode", "photo.png", "--force", "--codec", "image/jpeg", "--device", "cuda:3"],
        ["decode", "photo.tlm", "--device", "cuda:3"],
        ["generate", "red heart", "--to", "image", "--device", "cuda:3"],
        ["export", "digits-rvq", "--device", "cuda:3"],
        ["compare", "codecs=[image/jpeg]", "data=scenes", "device=cuda:3"],
        ["evaluate", "image/jpeg", "data=scenes", "device=cuda:3"],
        ["evaluate", "omni-small", "device=cuda:3"],
        ["evaluate", "emoji-fsq-diffusion", "data=scenes", "device=cuda:3"],
        ["tokenize", "codec=image/jpeg", "data=scenes", "device=cuda:3"],
        ["train", "codec=image/fsq", "data=scenes", "device=cuda:3"],
    ],
)
def test_commands_refuse_an_absent_device_in_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "photo.tlm"):
        (tmp_path / name).touch()
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("tokenloom: device must be auto or one that") and err.count("\n") == 1


def test_figures_name_the_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "image/jpeg", "data=scenes", "data.count=1", "device=cpu", "out=out"]) == 0
    found, cpu = json.loads((tmp_path / "out" / "results.json").read_text()), f"cpu ({devices.processor()})"
    assert found["environment"]["device"] == cpu
    assert {record["time"]["device"] for record in found["records"]} == {cpu}
    assert f",{cpu}\n" in (tmp_path / "out" / "results.csv").read_text().replace("\r\n", "\n")
    assert cpu in (tmp_path / "out" / "report.html").read_text()
