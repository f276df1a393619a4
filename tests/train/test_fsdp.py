"""A run whose weights, gradients, optimizer and average are sharded over two processes equals an unsharded one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.codecs import one_line, tiny
from support.processes import distance, finish, start
from support.training import config, losses_of, same

from tokenloom import codecs, models
from tokenloom.cli.main import main
from tokenloom.train import machine, state
from tokenloom.train.config import OptimizerConfig, TrainConfig
from tokenloom.train.loop import Run, train
from tokenloom.train.tasks import transformer

DOCUMENTS = {
    "name": "documents",
    "sources": {"scenes": {"name": "scenes", "count": 24, "size": 32}},
    "kinds": [{"kind": "caption", "source": "scenes"}],
}


def written(folder: Path, name: str, **changes) -> TrainConfig:
    """6 steps on captions and images. Most parameters have an odd number of rows, so the shards differ in size;
    no dropout, because its masks depend on the division of the batch."""
    network = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "dropout": 0.0, "context": 192}
    channels = [{"name": "text/bytes"}, {"name": "pictures", "codec": str(folder / "pictures"), "size": [32, 32]}]
    defaults = {
        "task": "transformer", "codec": {}, "losses": {}, "data": DOCUMENTS, "tokens": str(folder / "tokens"),
        "omni": {"transformer": network, "channels": channels}, "optimizer": OptimizerConfig(lr=3e-3, warmup=2),
        "steps": 6, "batch_size": 4, "ema": 0.5, "precision": "bf16-mixed",
    }  # fmt: skip
    return config(folder / name, **(defaults | changes))


PARTED = {"precision": "32-true", "accumulate": 2}
"""Two processes with two parts of one sequence each compute what one process computes in four parts."""

SHARDED = """
import json, shutil
import torch.distributed as distributed
from pathlib import Path
from test_fsdp import PARTED, written
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tokenloom.train.tasks import transformer
from tokenloom.train.loop import Run, train

transformer.VALIDATED = 16
folder, update, loss = Path(sys.argv[1]), Run._update, transformer.TransformerObjective.forward
rank, shares, seen, factor = None, set(), [], 1.0

def share(tensors):
    tensors = list(tensors)
    return sum(t.to_local().numel() for t in tensors) / sum(t.numel() for t in tensors)

def watched(self, step, batch):
    global factor
    factor = float("nan") if step == 4 and self.fabric.global_rank == 1 else 1.0
    terms = update(self, step, batch)
    assert (terms is None) == (step == 4)  # in both processes, though only one had a bad loss
    seen.append(terms and terms["gradient_norm"].item())
    if self.cfg.strategy == "fsdp":
        moments = [v for one in self.optimizer.state_dict()["state"].values() for k, v in one.items() if k != "step"]
        assert len(moments) == 2 * len(list(self.model.parameters()))
        shares.update(map(share, (self.model.parameters(), self.average.module.parameters(), moments)))
    return terms

def forward(self, batch):
    total, terms = loss(self, batch)
    return (total * factor if torch.is_grad_enabled() else total), terms

def gradients(optimizer, *_):
    shares.add(share(p.grad for group in optimizer.param_groups for p in group["params"]))

Run._update, transformer.TransformerObjective.forward = watched, forward
hook = register_optimizer_step_pre_hook(gradients)
train(written(folder, "parted", strategy="fsdp", **PARTED))
train(written(folder, "straight", strategy="fsdp", validate_every=4))
train(written(folder, "resumed", strategy="fsdp", stop_after=3))
if distributed.get_rank() == 0:
    shutil.copytree(folder / "resumed", folder / "replicated")
distributed.barrier()
train(written(folder, "resumed", strategy="fsdp", resume=True, validate_every=2))
hook.remove()
train(written(folder, "replicated", strategy="ddp", resume=True))
of_all = [None, None]
distributed.all_gather_object(of_all, {"norms": seen, "shares": sorted(shares)})
if distributed.get_rank() == 0:
    (folder / "seen.json").write_text(json.dumps(of_all))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, loopback) -> Path:
    """Run SHARDED in two processes, and `alone` in one process that skips the same step."""
    folder = tmp_path_factory.mktemp("fsdp")
    codecs.save(tiny("image/fsq"), folder / "pictures")
    update = Run._update

    def poisoned(self, step, batch):
        with pytest.MonkeyPatch.context() as patch:
            if step == 4:
                whole = transformer.TransformerObjective.forward
                patch.setattr(transformer.TransformerObjective, "forward", lambda *a: (whole(*a)[0] * torch.nan, {}))
            return update(self, step, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "VALIDATED", 16)
        patch.setattr(Run, "_update", poisoned)
        run = Run(written(folder, "alone", **PARTED | {"accumulate": 4}))
        torch.save(run.model.state_dict(), folder / "before.pt")
        run.go()
    finish(start(SHARDED, folder, processes=2))
    return folder


def test_each_process_holds_half(runs):
    """Weights, average, moments and gradients are halved. The first process holds the odd row."""
    first, second = (seen["shares"] for seen in json.loads((runs / "seen.json").read_text()))
    assert len(first) == len(second) == 1 and first[0] + second[0] == pytest.approx(1)
    assert 0.5 < first[0] < 0.51


def test_both_processes_clip_by_the_norm_of_the_whole_gradient(runs):
    first, second = (seen["norms"] for seen in json.loads((runs / "seen.json").read_text()))
    assert first == second and first.count(None) == 4
    assert any(norm > 1 for norm in first if norm)  # some gradients were clipped


def test_two_sharded_processes_are_one_with_the_same_batch(runs):
    """Gradients are summed in another order. test_scale.py derives the tolerance for Adam."""
    together, alone = state.load(runs / "parted"), state.load(runs / "alone")
    before = torch.load(runs / "before.pt")
    for key in ("model", "ema"):
        assert distance(together[key], alone[key]) < 1e-4 * distance(before, alone[key])
    for a, b in zip(losses_of(runs / "parted"), losses_of(runs / "alone"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert together["skipped"] == alone["skipped"] == 1


def test_what_is_saved_has_the_form_of_one_process(runs):
    def form(tree):
        if isinstance(tree, dict):
            return {k: form(v) for k, v in tree.items() if k not in ("recipe", "world_size")}
        return (tree.dtype, tree.shape, tree.untyped_storage().nbytes()) if isinstance(tree, torch.Tensor) else None

    sharded, alone = runs / "parted", runs / "alone"
    assert form(state.load(sharded)) == form(state.load(alone))
    assert form(load_file(sharded / "model.safetensors")) == form(load_file(alone / "model.safetensors"))
    assert {p.name for p in sharded.iterdir()} == {p.name for p in alone.iterdir()}
    (text,) = models.load(sharded).generate([torch.rand(3, 32, 32)], "text", seed=0)
    assert isinstance(text, str)
    average = models.load(sharded).transformer.state_dict()
    assert same(dict(average), dict(state.load(sharded)["ema"]))


def test_resumed_bit_for_bit(runs):
    """A resumed run in bfloat16, with validations in between, equals the uninterrupted one."""
    assert same(state.load(runs / "straight"), state.load(runs / "resumed"))
    weights = [(runs / name / "model.safetensors").read_bytes() for name in ("straight", "resumed")]
    assert weights[0] == weights[1]


def test_resumed_as_replicas(runs):
    """The state on disk is whole, so as many unsharded processes can continue the run."""
    sharded, replicated = (state.load(runs / name) for name in ("straight", "replicated"))
    before = torch.load(runs / "before.pt")
    assert distance(sharded["model"], replicated["model"]) < 1e-4 * distance(before, sharded["model"])
    assert sharded["recipe"] == replicated["recipe"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy": "zero"}, "strategy must be one of auto, ddp, fsdp, got 'zero'"),
        ({"strategy": "fsdp"}, "there is one; start them with torchrun"),
        ({"strategy": "fsdp", "precision": "16-mixed"}, "in bf16-mixed or 32-true, not in 16-mixed"),
        ({"strategy": "fsdp", "task": "codec"}, "is for task=transformer, not task=codec"),
    ],
)
def test_what_cannot_be_sharded_is_one_line(changes, says, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda cfg: 1)
    with pytest.raises(ValueError, match=says) as error:
        train(written(tmp_path, "run", device="auto", **changes))
    assert one_line(error) and not list(tmp_path.iterdir())


def test_the_command_line_says_so_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "codec=image/fsq", "data=scenes", "strategy=fsdp"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())
