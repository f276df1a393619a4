"""`task=decoder`: losses, settings, whole trainings in one and two processes, and mistakes of users."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from support.codecs import one_line, tiny
from support.processes import environment

from tokenloom import codecs, models
from tokenloom.train import state
from tokenloom.train.config import CropConfig, OptimizerConfig, TrainConfig
from tokenloom.train.loop import train
from tokenloom.train.tasks.decoder import DecoderJob, SettingRange
from tokenloom.train.tasks.flow import GROUPS, JUMPS, FlowObjective

NETWORK = {"widths": [8, 16], "depths": [1, 1], "noise": 0.3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return folders of two small codecs."""
    folder = tmp_path_factory.mktemp("codecs")
    for name in ("image/rvq", "audio/rvq", "image/flex"):
        codecs.save(tiny(name), folder / name.split("/")[0] / name.split("/")[1])
    return folder


def config(folder, out, kind="image/rvq", **changes) -> TrainConfig:
    image = kind.startswith("image")
    data = {"name": "scenes", "count": 24, "size": 48} if image else {"name": "phrases", "count": 8}
    defaults = {
        "task": "decoder", "decoder": {"codec": str(folder / kind), **NETWORK}, "data": data, "batch_size": 8,
        "steps": 12, "log_every": 1, "validate_every": 100, "save_every": 100, "precision": "32-true",
        "optimizer": OptimizerConfig(warmup=2, lr=3e-3), "crop": CropConfig(size=48 if image else 1024),
        "out": str(out),
    }  # fmt: skip
    return TrainConfig(**{**defaults, **changes})


def log(out) -> dict[tuple[int, str], float]:
    rows = (line.split(",") for line in (out / "log.csv").read_text().splitlines()[1:])
    return {(int(step), name): float(value) for step, name, value in rows}


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# -- whole trainings -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image/rvq", "audio/rvq", "image/flex"])
def test_it_learns_and_leaves_a_decoder(trained, tmp_path, kind):
    out = train(config(trained, tmp_path / "run", kind, steps=40, losses={"codes": 0.01}))
    logged = log(out)
    flows = [logged[step, "flow"] for step in range(1, 41)]
    assert sum(flows[-8:]) < 0.93 * sum(flows[:8])
    assert {"shortcut", "codes"} <= {name for _, name in logged}
    measure = "psnr" if kind.startswith("image") else "log_spectral_distance"
    for name in ("low/plain", "low/1-steps", "high/4-steps"):
        assert math.isfinite(logged[40, f"validation/{measure}/{name}"])
    assert 0 <= logged[40, "validation/same_codes/high/4-steps"] <= 1
    assert any((out / "samples").iterdir())
    decoder = models.load(out)
    assert decoder.config["widths"] == [8, 16] and decoder.flow.law[0] != 0
    x = torch.rand(2, 3, 50, 41) if kind.startswith("image") else torch.rand(2, 1, 3000) - 0.5
    assert decoder.decode(decoder.codec.encode(x), steps=1).shape == x.shape


def test_interrupted_and_resumed_equals_straight(trained, tmp_path):
    straight = train(config(trained, tmp_path / "straight"))
    parts = tmp_path / "parts"
    train(config(trained, parts, stop_after=5))
    train(config(trained, parts, resume=True, workers=2))
    assert same(state.load(parts), state.load(straight))
    assert (parts / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_it_begins_from_another_decoder(trained, tmp_path):
    first = train(config(trained, tmp_path / "first"))
    other = {"codec": str(trained / "image/flex"), **NETWORK, "begin": str(first)}
    job = DecoderJob(config(trained, tmp_path / "second", decoder=other))
    theirs = models.load(first).flow.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in job.model.state_dict().items())
    job.start()
    assert not torch.equal(job.model.law, theirs["law"])  # the law is fitted to the codec


@pytest.mark.usefixtures("loopback")
def test_two_processes_are_one_with_the_same_batch(trained, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\nfrom test_decoder_task import config\nfrom tokenloom.train.loop import train\n"
        "train(config(Path(sys.argv[1]), Path(sys.argv[2]), steps=4, batch_size=16, losses={'codes': 0.0}))\n"
    )
    for out, launch in (("one", [sys.executable]), ("two", [sys.executable, "-m", "torch.distributed.run",
                        "--nproc-per-node", "2", "--master-port", "29731"])):  # fmt: skip
        command = [*launch, str(script), str(trained), str(tmp_path / out)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (state.load(tmp_path / name)["model"] for name in ("one", "two"))
    moved = max((one[k] - torch.zeros_like(one[k])).abs().max().item() for k in one if k.startswith("network.leave"))
    assert moved > 1e-4
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-5


# -- the losses ----------------------------------------------------------------------------------


def task_of(trained, tmp_path, **changes) -> FlowObjective:
    job = DecoderJob(config(trained, tmp_path, **changes))
    torch.manual_seed(0)
    for p in job.model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    job.start()
    return job.module(None)


def test_the_flow_loss_is_that_of_the_velocity(trained, tmp_path):
    """Compare with a slow version that computes one row at a time from the same noise and time."""
    task = task_of(trained, tmp_path, losses={"shortcut": 0.0})
    x = torch.rand(8, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    total, terms = task(x)
    assert set(terms) == {"flow"} and torch.allclose(total.detach(), terms["flow"])
    torch.manual_seed(3)
    codec, decoder = task._frozen
    positions = torch.rand(GROUPS).tolist()
    errors = []
    rows = sorted(range(8), key=lambda row: (row % GROUPS, row))
    noises, draws = torch.randn(8, 3, 48, 48), torch.rand(8, 3)
    for row in rows:
        codes = codec.encode(x[row : row + 1], task.settings(positions[row % GROUPS]))
        given = decoder.conditioning(codes)
        sigma = task.flow.scale(given)
        r, noise, t = (2 * x[row] - 1 - given.reconstruction) / sigma, 0.3 * noises[row], draws[row, 0]
        state = (1 - t) * noise + t * r
        found = task.flow.average(state, t[None], torch.zeros(1), given)
        errors.append((found - (r - noise)).square().mean() / (1 + 0.3**2))
    assert torch.stack(errors).mean().item() == pytest.approx(terms["flow"].item(), rel=1e-4)


def test_a_shortcut_of_a_flow_that_is_exact_costs_nothing(trained, tmp_path):
    """If the network returns zeros, the flow is that of a Gaussian, and a jump is the mean of its halves."""
    node = {"codec": str(trained / "image/rvq"), **NETWORK, "conditional": True, "noise": 1.0}
    job = DecoderJob(config(trained, tmp_path, decoder=node, batch_size=32))
    job.start()
    task = job.module(None)
    _, terms = task(torch.rand(32, 3, 48, 48))
    # the halves of the shortest jumps are Euler steps of the flow, so a small error remains
    assert terms["shortcut"].item() < 1e-3 < terms["flow"].item()


def test_codes_cost_nothing_where_the_result_has_their_latents(trained, tmp_path):
    task = task_of(trained, tmp_path)
    codec, decoder = task._frozen
    x = torch.rand(4, 3, 48, 48)
    codes = [codec.encode(x)]
    given = decoder.conditioning(codes[0])
    wanted = codec.embed(codes[0])
    end = (decoder.planes.forward(x) - given.reconstruction) / task.flow.scale(given)
    all_rows = torch.ones(4, dtype=torch.bool)
    own = (codec.quantizer.bounded(codec.analyze(x)) - wanted).square().flatten(1).mean(1).sum() / wanted.var()
    assert task.code_error(codes, given, end, all_rows, x).item() == pytest.approx(own.item(), rel=1e-3)
    assert task.code_error(codes, given, end, ~all_rows, x).item() == 0


def test_gradients_reach_every_weight(trained, tmp_path):
    task = task_of(trained, tmp_path, losses={"codes": 1.0})
    total, _ = task(torch.rand(16, 3, 48, 48))
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in task._frozen[0].parameters())


def test_jumps_fill_the_time_exactly():
    assert all(1 / d == int(1 / d) for d in JUMPS) and JUMPS[0] == 1


# -- settings ------------------------------------------------------------------------------------


def test_settings_go_from_low_to_high():
    codec = tiny("image/flex")  # 1 to 8 tokens
    along = SettingRange(codec, [1, 2, 4, 8])
    assert [along(p) for p in (0, 1 / 3, 2 / 3, 1)] == [1, 2, 4, 8]
    assert along(0.95) in (7, 8) and along(0.5) == 3
    assert [SettingRange(tiny("image/fsq"), [None])(p) for p in (0, 0.5, 1)] == [None] * 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"decoder": {}}, "decoder.codec"),
        ({"decoder": {"codec": "image/jpeg"}}, "a learned codec with latents"),
        ({"decoder": {"codec": "no-such"}}, "unknown codec 'no-such'"),
        ({"losses": {"l2": 1.0}}, "unknown loss of task=decoder 'l2'; known: flow, shortcut, codes"),
        ({"losses": {"flow": 0.0}}, "losses.flow must be above 0"),
        ({"losses": {"codes": -1.0}}, "losses.codes must be a weight of at least 0, got -1.0"),
        ({"data": {"name": "phrases", "count": 8}}, "audio"),
        ({"strategy": "fsdp"}, "fsdp is for task=transformer"),
        ({"decoder": {"codec": "digits-rvq", "settings": [9]}}, "decoder.settings: .* must be one of .* got 9"),
        ({"decoder": {"codec": "digits-rvq", "settings": []}}, "decoder.settings"),
        ({"decoder": {"codec": "digits-rvq", "colour": 1}}, "no option 'colour'"),
        ({"decoder": {"codec": "digits-rvq", "begin": "omni-small"}}, "must be a diffusion decoder, got omni-small"),
        ({"decoder": {"codec": "digits-rvq", "begin": "nowhere"}}, "unknown model 'nowhere'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(trained, tmp_path, change, says):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=says) as error:
        train(config(trained, out, **change))
    assert one_line(error) and not out.exists()


def test_another_architecture_is_not_begun_from(trained, tmp_path):
    first = train(config(trained, tmp_path / "first", steps=2))
    other = {"codec": str(trained / "image/rvq"), **NETWORK, "widths": [8, 24], "begin": str(first)}
    with pytest.raises(ValueError, match="another architecture") as error:
        train(config(trained, tmp_path / "second", decoder=other))
    assert one_line(error)
