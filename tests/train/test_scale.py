"""Several processes and parts of a batch give the same run; full disks and kills leave a whole checkpoint."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from support.processes import distance, finish, start
from support.training import config, log, losses_of, same

from tokenloom import codecs
from tokenloom.codecs.codec import Codec
from tokenloom.train import machine, state
from tokenloom.train.config import CropConfig
from tokenloom.train.loop import Run, train

# -- several processes --------------------------------------------------------------------------

STEPS = 6
SHARED = {
    "fsq": ("image/fsq", {"accumulate": 2}),
    "bsq": ("image/bsq", {}),
    "rvq": ("image/rvq", {}),
    "audio": ("audio/rvq", {}),
}
"""Runs with a batch of 8 over two processes. Residual quantizers start by k-means and revive entries."""


def shared(key: str, out: Path):
    """Return a config in float32, because the rounding of bfloat16 depends on the shape of the batch."""
    name, changes = SHARED[key]
    cfg = config(out, name, steps=STEPS, batch_size=8, precision="32-true", **changes)
    if name.endswith("rvq"):
        cfg.codec |= {"decay": 0.5, "dead_below": 1.5 if name.startswith("image") else 12}  # a third of the mean use
    return cfg


WATCHED = """
import json
import torch.distributed as distributed
from pathlib import Path
from test_scale import SHARED, shared
from tokenloom.codecs.quantizers.codebooks import Batch
from tokenloom.train.loop import Run, train

update, draw, drawn = Run._update, Batch.draw, []

def watched(self, step, batch):
    done = update(self, step, batch)
    state = {**self.model.state_dict(), **{f"ema.{k}": v for k, v in self.average.module.state_dict().items()}}
    mine = torch.cat([v.double().flatten() for v in state.values()])
    of_all = [torch.empty_like(mine) for _ in range(2)]
    distributed.all_gather(of_all, mine)
    assert torch.equal(*of_all), f"step {step}"
    assert len(batch) == 4
    return done

def counted(self, vectors, count):
    drawn.append(count)
    return draw(self, vectors, count)

Run._update, Batch.draw = watched, counted
counts = {}
for key in SHARED:
    drawn.clear()
    train(shared(key, Path(sys.argv[1]) / key))
    counts[key] = len(drawn)
if distributed.get_rank() == 0:
    (Path(sys.argv[1]) / "drawn.json").write_text(json.dumps(counts))
"""


@pytest.mark.usefixtures("loopback")
def test_two_processes_are_one_with_the_same_batch(tmp_path):
    """Both ranks hold the same tensors after every step (asserted in WATCHED). The run equals that of one process.

    The tolerance: gradients are sums in another order, 1e-7 of their size apart. Adam divides a gradient by its own
    size, so where one is nearly 0 the sign of an update may turn, as may a bit or an index whose margin is as small;
    single weights then differ by one update, but their mean by far less than the run has changed them.
    """
    finish(start(WATCHED, tmp_path / "two", processes=2))
    for key in SHARED:
        two, one = tmp_path / "two" / key, tmp_path / "one" / key
        run = Run(shared(key, one))
        before = {name: value.clone() for name, value in run.model.state_dict().items()}
        run.go()
        together, alone = state.load(two)["model"], state.load(one)["model"]
        assert distance(together, alone) < 0.01 * distance(before, alone), key
        for a, b in zip(losses_of(two), losses_of(one), strict=True):
            assert a == pytest.approx(b, rel=1e-4), key
        assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
        assert codecs.load(two).counts.sum() > 0
    drawn = json.loads((tmp_path / "two" / "drawn.json").read_text())
    assert drawn["rvq"] > 3 and drawn["audio"] > 3  # more than the three k-means starts: entries were revived
    assert drawn["fsq"] == drawn["bsq"] == 0
    cfg = shared("fsq", tmp_path / "two" / "fsq")
    cfg.resume = True
    with pytest.raises(ValueError, match="world_size=2; it cannot go on with 1"):
        train(cfg)


LONG = """
from pathlib import Path
from support.training import config
from tokenloom.train.loop import train
train(config(Path(sys.argv[1]) / "run", steps=100_000, save_every=100_000, validate_every=100_000, batch_size=2))
"""


@pytest.mark.usefixtures("loopback")
def test_sigterm_under_torchrun_leaves_a_whole_checkpoint(tmp_path):
    """A cluster sends SIGTERM before it takes a machine away. torchrun passes the signal on, sometimes twice."""
    process = start(LONG, tmp_path, processes=2, start_new_session=True)
    run = tmp_path / "run"
    try:
        end = time.monotonic() + 300
        while not (run / "log.csv").exists() or len((run / "log.csv").read_text()) < 300:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)  # reaches the workers, too, which get it again from torchrun
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "finishing this step" in errors
    assert state.exists(run), errors
    saved = state.load(run)
    assert 0 < saved["step"] < 100_000 and saved["world_size"] == 2
    assert max(step for step, _ in log(run)) == saved["step"]
    assert codecs.load(run).name == "image/fsq"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "2"}, "without torchrun"),
        ({"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "do not fit together"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "do not fit together"),
        ({"WORLD_SIZE": "two", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE=two"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "LOCAL_WORLD_SIZE=nothing"),
        ({"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}, "does not divide among 3"),
    ],
)
def test_a_world_that_does_not_fit_is_one_line(environment, says, tmp_path, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if len(environment) > 1:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match=says) as error:
        train(config(tmp_path / "run", batch_size=4))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_processes_as_torchrun_says(monkeypatch):
    assert machine.processes() == (1, 1)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4"), ("RANK", "5"),
                        ("LOCAL_RANK", "1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    assert machine.processes() == (4, 2)


def test_one_process_of_a_machine_tells_of_a_mistake(capsys, monkeypatch, tmp_path):
    """Two processes fail in the same way before they are connected; only one prints the error."""
    from tokenloom.cli.main import main

    monkeypatch.chdir(tmp_path)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert main(["train", "codec=image/fsq", "data=scenes", "batch_size=0"]) == 2
        assert capsys.readouterr().err.count("\n") == lines
    assert not list(tmp_path.iterdir())


# -- parts of a batch ---------------------------------------------------------------------------


def test_a_batch_in_parts_gives_the_same_step(tmp_path):
    """FSQ uses no batch statistics, so gradients differ by rounding, and the updates of Adam by little more."""
    runs = [
        Run(config(tmp_path / str(n), accumulate=n, batch_size=8, crop=CropConfig(size=32), precision="32-true"))
        for n in (1, 4)
    ]
    for step in range(5):
        batch = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        whole, parts = (run._update(step, batch) for run in runs)
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)
    for a, b in zip(*(run.model.parameters() for run in runs), strict=True):
        assert (a - b).abs().mean() < 1e-5
    for run in runs:
        run.logs.close()


def test_one_bad_part_leaves_the_whole_step_out(tmp_path):
    run = Run(config(tmp_path, "image/rvq", accumulate=2, precision="32-true"))
    before = None
    for step in range(3):
        batch = torch.rand(4, 3, 32, 32)
        if step == 2:
            before = {name: value.clone() for name, value in run.model.state_dict().items()}
            batch[3, 0, 5, 5] = float("inf")
        assert (run._update(step, batch) is None) == (step == 2)
    assert run.skipped == 1 and same(run.model.state_dict(), before)
    run.logs.close()


# -- fp16 ---------------------------------------------------------------------------------------


def test_the_scale_of_fp16_losses_falls_with_a_skip_and_survives_resume(tmp_path, monkeypatch):
    """Test the code path of the GPU with the loss scaler on the CPU."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision

    monkeypatch.setattr(machine, "gpus", lambda cfg: 1)
    monkeypatch.setattr(
        machine, "launch", lambda cfg: Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu")])
    )
    run = Run(config(tmp_path, precision="16-mixed", device="auto"))
    scale = run.fabric.strategy.precision.scaler.get_scale
    assert scale() == 2**16
    done = [run._update(step, torch.rand(4, 3, 32, 32)) is not None for step in range(8)]
    assert any(done) and scale() == 2**16 * 0.5 ** done.count(False)
    before, weights = scale(), [p.clone() for p in run.model.parameters()]
    assert run._update(8, torch.full((4, 3, 32, 32), float("nan"))) is None
    assert scale() == before / 2 and all(map(torch.equal, weights, run.model.parameters()))
    run._save_state()
    run.logs.close()
    again = Run(config(tmp_path, precision="16-mixed", device="auto", resume=True))
    assert again.fabric.strategy.precision.scaler.state_dict() == run.fabric.strategy.precision.scaler.state_dict()
    assert again.skipped == run.skipped
    again.logs.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_on_a_gpu(precision, tmp_path):
    changes = {"precision": precision, "device": "cuda"}
    out = train(config(tmp_path, "image/rvq", steps=60, ema=0.9, **changes))
    values = losses_of(out)
    assert sum(values[-10:]) < 0.85 * sum(values[:10])
    train(config(tmp_path, "image/rvq", steps=70, ema=0.9, resume=True, **changes))


# -- resuming -----------------------------------------------------------------------------------


def test_resumed_within_an_epoch_with_other_workers(tmp_path):
    """With 23 items and batches of 4, step 8 ends within the second epoch."""
    straight = train(config(tmp_path / "straight", "image/rvq", steps=16))
    parts = tmp_path / "parts"
    train(config(parts, "image/rvq", steps=16, stop_after=8))
    train(config(parts, "image/rvq", steps=16, resume=True, workers=2))
    assert same(state.load(parts), state.load(straight))
    assert (parts / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


# -- disks and kills ----------------------------------------------------------------------------


def small(value: float) -> Codec:
    codec = codecs.build("image/fsq", levels=[8, 5, 4], stride=8, patch=4, widths=[32, 64], depths=[1, 1],
                         decoder_depths=[1, 1])  # fmt: skip
    for parameter in codec.parameters():
        torch.nn.init.constant_(parameter, value)
    return codec


def whole(out: Path) -> float:
    """Return the value that all weights of a checkpoint share. state.pt has the same or that of an adjacent save."""
    codec, saved = codecs.load(out), state.load(out)
    (value,) = torch.cat([p.detach().flatten() for p in codec.parameters()]).unique().tolist()
    (of_state,) = saved["weights"].unique().tolist()
    assert abs(of_state - value) <= 1
    return value


SAVING = """
import os, random, signal, time
from pathlib import Path
from test_scale import small, whole
from tokenloom import codecs
from tokenloom.train import state

out, generator, seen = Path(sys.argv[1]) / "run", random.Random(0), []
out.mkdir()
codec = small(0.0)

def save(value):
    for parameter in codec.parameters():
        parameter.data.fill_(value)
    state.save({"weights": torch.full((2**18,), value)}, out)
    codecs.save(codec, out, trained={"steps": value})

save(0.0)
for kill in range(25):
    child = os.fork()
    if not child:
        value = seen[-1] if seen else 0.0
        while True:
            value += 1
            save(value)
    time.sleep(generator.uniform(0.0, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.append(whole(out))
assert seen == sorted(seen)
print(len(set(seen)), len(list(out.glob("*.part"))))
"""


def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(tmp_path):
    """25 kills, after no or several saves, most during one. Some leave a partly written file."""
    moved, begun = map(int, finish(start(SAVING, tmp_path)).split())
    assert moved > 5 and begun >= 0


@pytest.fixture
def full_disk():
    """Return a function that limits the size of files in bytes, which acts like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 3000, 200_000])
def test_a_full_disk_leaves_the_previous_checkpoint(room, full_disk, tmp_path):
    before, after = small(1.0), small(2.0)
    codecs.save(before, tmp_path)
    state.save({"weights": torch.ones(2**18)}, tmp_path)
    full_disk(room)
    for save in (
        lambda: state.save({"weights": torch.full((2**18,), 2.0)}, tmp_path),
        lambda: codecs.save(after, tmp_path),
    ):
        with pytest.raises(OSError, match=r"File too large: '.*/(state.pt|model.safetensors)'"):
            save()
    assert whole(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "model.safetensors", "state.pt"]


def test_a_disk_that_fills_up_during_a_run_ends_it_in_one_line(full_disk, tmp_path, monkeypatch):
    real = Run._update

    def fills(self, step, batch):
        if step == 15:
            full_disk(20_000)
        return real(self, step, batch)

    monkeypatch.setattr(Run, "_update", fills)
    with pytest.raises(OSError, match=r"File too large: '.*/state.pt'"):
        train(config(tmp_path, save_every=10, log_every=1000))
    assert state.load(tmp_path)["step"] == 10
