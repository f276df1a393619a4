"""A task needs one module: the loop finds and trains it, and Hydra reads its config."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from safetensors.torch import load_file
from test_train import log

from tokenloom.train import config, job, tasks
from tokenloom.train.loop import train

TOY = '''
"""The task `toy`: fit a line."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tokenloom.train.job import TrainingJob, register
from tokenloom.train.run_config import RunConfig


@dataclass
class ToyConfig(RunConfig):
    slope: float = 2.0


class Objective(nn.Module):
    def __init__(self, line, weight):
        super().__init__()
        self.line, self.weight = line, weight

    def forward(self, x):
        loss = (self.line(x[:, :1]) - x[:, 1:]).square().mean()
        return self.weight * loss, {"distance": loss.detach()}


@register("toy")
class ToyJob(TrainingJob):
    config = ToyConfig
    losses = ("distance",)
    fixed = ("slope",)

    def __init__(self, cfg):
        super().__init__(cfg)
        self.model, self.trained = nn.Linear(1, 1), {"slope": cfg.slope}

    def recipe(self):
        return {}

    def module(self, adversary):
        return Objective(self.model, self.cfg.losses.get("distance") or 1.0)

    def batches(self, *, start_step, steps, rank, world_size):
        for step in range(start_step, steps):
            x = torch.randn(self.cfg.batch_size, 1, generator=torch.Generator().manual_seed(step))
            yield step, torch.cat([x, self.cfg.slope * x], 1)[rank::world_size]

    def fill(self, model, tensors, where):
        model.load_state_dict(tensors)

    def validate(self, model, device, samples, step):
        return {"slope": model.weight.item()}

    def save(self, model, out, trained):
        save_file(model.state_dict(), Path(out) / "model.safetensors")
        (Path(out) / "config.yaml").write_text(f"toy: {trained}")
'''


@pytest.fixture
def toy(tmp_path, monkeypatch) -> type:
    """Install a fourth task, a single module in its own folder, and return its class."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(folder)])
    yield tasks.all_tasks()["toy"]
    sys.modules.pop("tokenloom.train.tasks.toy", None)
    vars(tasks).pop("toy", None)
    job.TASKS.pop("toy")


def toy_config(toy: type, out: Path, **changes):
    options = {"data": {"name": "none"}, "steps": 2, "device": "cpu", "log_every": 1, "out": str(out)}
    return toy.config(task="toy", **(options | changes))


def test_a_task_in_one_module_trains_and_resumes(toy, tmp_path):
    straight = train(toy_config(toy, tmp_path / "straight"))
    assert {"distance", "loss", "validation/slope"} <= {name for _, name in log(straight)}
    train(toy_config(toy, tmp_path / "parts", stop_after=1))
    parts = train(toy_config(toy, tmp_path / "parts", resume=True))
    a, b = (load_file(out / "model.safetensors") for out in (straight, parts))
    assert all((a[name] == b[name]).all() for name in a)
    with pytest.raises(ValueError, match=r"was trained with slope=2\.0; it cannot go on with 3\.0"):
        train(toy_config(toy, tmp_path / "parts", resume=True, steps=3, slope=3.0))


def test_its_keys_and_losses_are_composed(toy):
    ConfigStore.instance().store(name="train_schema", node=config.compose())
    try:
        with initialize_config_module("tokenloom.conf", version_base="1.3"):
            cfg = compose("train", overrides=["task=toy", "slope=3", "losses.distance=0.5", "out=x"])
    finally:
        ConfigStore.instance().store(name="train_schema", node=config.TrainConfig)
    cfg = OmegaConf.to_object(cfg)
    assert isinstance(cfg, toy.config) and cfg.slope == 3.0 and cfg.losses["distance"] == 0.5
    toy(cfg)


def test_the_yaml_states_the_keys_and_defaults_of_every_task():
    values = yaml.safe_load((Path(__file__).parents[2] / "conf" / "train.yaml").read_text())
    schema = OmegaConf.to_container(OmegaConf.structured(config.TrainConfig))
    for key in ("defaults", "hydra", "out"):
        values.pop(key, None)
        schema.pop(key, None)
    groups = {"codec", "omni", "decoder", "data"}  # groups of the defaults list
    assert values == {key: value for key, value in schema.items() if key not in groups}


@pytest.mark.parametrize("name", ["loop", "check", "machine", "job", "config"])
def test_the_loop_knows_no_task_by_name(name):
    source = (Path(tasks.__file__).parents[1] / f"{name}.py").read_text()
    assert not [task for task in tasks.all_tasks() if f'"{task}"' in source or f"tasks.{task}" in source]
