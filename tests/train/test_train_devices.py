"""Every task trains, validates, saves and resumes on a device other than the CPU."""

from __future__ import annotations

import dataclasses

import lightning_fabric
import pytest
import torch
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import SingleDeviceStrategy
from support import second_device
from support.codecs import tiny
from support.packs import write_packs
from support.training import config

from tokenloom import codecs, models
from tokenloom.train import machine, state
from tokenloom.train.config import AdversaryConfig, CropConfig
from tokenloom.train.loop import train
from tokenloom.train.tasks import decoder, transformer


class Accelerator(CPUAccelerator):
    """Fabric's description of the second device."""

    def setup_device(self, device):
        assert device == second_device.DEVICE


@pytest.fixture
def second(monkeypatch):
    """Let runs use the second device, through the strategy that Fabric has for one GPU."""
    monkeypatch.setattr(transformer, "VALIDATED", 2)
    monkeypatch.setattr(transformer, "FAMILIAR", 4)
    monkeypatch.setattr(decoder, "FIT_CROPS", 4)
    monkeypatch.setattr(decoder, "MAX_SAMPLES", 1)

    def launch(cfg):
        plugins = [MixedPrecision("bf16-mixed", second_device.NAME)] if cfg.precision == "bf16-mixed" else []
        strategy = SingleDeviceStrategy(second_device.DEVICE, accelerator=Accelerator())
        fabric = lightning_fabric.Fabric(strategy=strategy, plugins=plugins)
        assert fabric.device == second_device.DEVICE
        return fabric

    with second_device.active() as device:
        monkeypatch.setattr(machine, "launch", launch)
        yield device


def run(cfg):
    """Train in two parts, the second one resumed."""
    options = vars(cfg) | {"device": "auto", "precision": "32-true", "log_every": 1, "ema": 0.9, "steps": 2}
    options["optimizer"] = dataclasses.replace(cfg.optimizer, warmup=1)
    train(type(cfg)(**options | {"stop_after": 1}))
    out = train(type(cfg)(**options | {"resume": True}))
    assert (out / "log.csv").read_text().count("\n") > 2
    saved = state.load(out)
    tensors = [x for x in torch.utils._pytree.tree_leaves(saved) if isinstance(x, torch.Tensor)]
    assert tensors and {type(x) for x in tensors} <= {torch.Tensor}  # a machine without the device can resume
    return out


ADVERSARIES = {"image/vqgan": "r1", "audio/rvq": "lecam"}


@pytest.mark.parametrize("name", ["image/vqgan", "image/ntc", "audio/rvq"])
def test_codecs_train(name, second, tmp_path):
    losses = {"l1": 1.0, "stft": 0.1, "mel": 0.1} if name == "audio/rvq" else {"l2": 1.0, "msssim": 0.1}
    adversary = {"weight": 0.1, "regularizer": ADVERSARIES[name], "filters": 4} if name in ADVERSARIES else {}
    cfg = config(
        tmp_path / "run", name, losses=losses | {"quantizer": 0.1}, batch_size=2,
        adversary=AdversaryConfig(**adversary), crop=CropConfig(size=1024 if name == "audio/rvq" else 48),
    )  # fmt: skip
    assert codecs.load(run(cfg), device="cpu").counts.sum() > 0


@pytest.mark.parametrize("kind", ["image/rvq", "audio/rvq"])
def test_decoders_train(kind, second, tmp_path):
    codecs.save(tiny(kind), tmp_path / "codec")
    cfg = config(
        tmp_path / "run", kind, task="decoder", losses={}, codec={}, batch_size=4,
        decoder={"codec": str(tmp_path / "codec"), "widths": [8, 16], "depths": [1, 1], "noise": 0.3},
        crop=CropConfig(size=48 if kind == "image/rvq" else 1024),
    )  # fmt: skip
    assert models.load(run(cfg)).device.type == "cpu"


def test_transformers_train(second, tmp_path):
    write_packs(tmp_path)
    codecs.save(tiny("image/fsq"), tmp_path / "pictures")
    codecs.save(tiny("audio/rvq"), tmp_path / "sounds")
    channels = [
        {"name": "text/bytes"},
        {"name": "pictures", "codec": str(tmp_path / "pictures"), "size": [32, 32]},
        {"name": "sounds", "codec": str(tmp_path / "sounds"), "setting": 1},
    ]
    numbers = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "context": 160, "dropout": 0.1}
    sources = {"emoji": {"name": "tar", "path": "emoji.tar"}, "digits": {"name": "tar", "path": "digits.tar"}}
    kinds = [{"kind": "caption", "source": "emoji"}, {"kind": "caption", "source": "digits"}]
    cfg = config(
        tmp_path / "run", task="transformer", losses={}, codec={}, tokens=str(tmp_path / "tokens"), batch_size=2,
        omni={"transformer": numbers, "channels": channels},
        data={"name": "documents", "folder": str(tmp_path), "sources": sources, "kinds": kinds},
    )  # fmt: skip
    assert models.load(run(cfg)).device.type == "cpu"
