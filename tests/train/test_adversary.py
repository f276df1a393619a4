"""Adversarial training: formulas against values computed by hand, runs compared bit for bit."""

from __future__ import annotations

import copy
import json
import os
import runpy
import subprocess
import sys

import pytest
import torch
from support.codecs import NETWORK, TINY, one_line, tiny
from support.training import SCENES, config, log, same
from torch import nn

from tokenloom import codecs
from tokenloom.cli.main import main
from tokenloom.codecs import CodeSpec, Modality
from tokenloom.train import state
from tokenloom.train.adversarial import adversary, balance, discriminators
from tokenloom.train.config import AdversaryConfig, CropConfig, OptimizerConfig, TrainConfig
from tokenloom.train.loop import Run, train

AUDIO = CodeSpec(Modality.AUDIO, (32,), (8,), 1, 8000, total=True, ordered=False, causal=True)


def adversarial(**changes) -> AdversaryConfig:
    return AdversaryConfig(**({"weight": 0.1, "filters": 4, "lr": 1e-3} | changes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class OneProcess:
    """The part of Fabric that the adversary uses, for one process."""

    world_size = 1
    device = torch.device("cpu")


def alone(codec: codecs.LatentCodec, size: int = 32, **changes) -> adversary.Adversary:
    """Return an adversary in float32, after its start step."""
    torch.manual_seed(0)
    cfg = TrainConfig(adversary=adversarial(**changes), precision="32-true")
    made = adversary.build(cfg, codec, OneProcess(), size)
    made.begin(0, 1.0)
    return made


# -- discriminators -----------------------------------------------------------------------------


def test_patchgan_judges_patches_of_70_pixels():
    torch.manual_seed(0)
    network = discriminators.PatchGAN(4)
    x = torch.rand(2, 3, 128, 120, requires_grad=True)
    (logits,), (features,) = network(x)
    assert logits.shape == (2, 1, 14, 13) and len(features) == 4
    (gradient,) = torch.autograd.grad(logits[0, 0, 7, 6], x)
    rows, columns = gradient[0].abs().sum(0).nonzero(as_tuple=True)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (70, 70)
    assert not gradient[1].any(), "one picture's verdict does not depend on another's"
    assert not list(network.buffers()), "nothing is averaged over batches"
    torch.testing.assert_close(network(x[1:])[0][0], logits[1:])


@pytest.mark.parametrize("size", [(24, 24), (32, 32), (45, 33)])
def test_patchgan_takes_any_size_from_24_pixels(size):
    assert torch.isfinite(discriminators.PatchGAN(4)(torch.rand(1, 3, *size))[0][0]).all()
    with pytest.raises(ValueError, match="at least 24 pixels, got 23"):
        discriminators.build(tiny("image/fsq").spec, 23, 4)


@pytest.mark.parametrize(("rate", "channels", "size"), [(8000, 1, 1024), (44100, 2, 3001), (48000, 1, 300)])
def test_stft_discriminator_takes_any_rate(rate, channels, size):
    spec = CodeSpec(Modality.AUDIO, (32,), (8,), channels, rate, total=True, ordered=False, causal=True)
    network = discriminators.build(spec, size, 4)
    logits, features = network(torch.rand(2, channels, size) * 2 - 1)
    assert len(logits) == len(features) == network.scales >= 1
    assert all(torch.isfinite(scale).all() and len(scale) == 2 for scale in logits)
    assert all(len(scale) == 5 for scale in features)


def test_stft_windows_are_those_of_the_paper():
    assert discriminators.stft_windows(24000, 24000) == [2048, 1024, 512, 256, 128]
    assert discriminators.stft_windows(48000, 48000) == [4096, 2048, 1024, 512, 256]
    assert discriminators.stft_windows(24000, 600) == [512, 256, 128]
    with pytest.raises(ValueError, match="32 samples, got 20") as error:
        discriminators.build(AUDIO, 20, None)
    assert one_line(error)


def test_the_stft_is_normalised_by_its_window():
    """White noise of variance 1 has power 1 in every bin, summed over both planes."""
    network = discriminators.STFTDiscriminator(1, 64, 4)
    seen = []
    network.layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    network(torch.randn(4, 1, 8000, generator=generator()))
    assert seen[0].shape[1:] == (2, 501, 33)
    power = seen[0].square().sum(1).mean((0, 1))
    torch.testing.assert_close(power, torch.ones(33), rtol=0.2, atol=0)


# -- losses by hand -----------------------------------------------------------------------------


def test_hinge_by_hand():
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-3.0, 0.0])]
    assert adversary.hinge(real, fake).item() == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    both = adversary.hinge([*real, torch.ones(1)], [*fake, torch.tensor([1.0])])
    assert both.item() == pytest.approx((0.75 + 2) / 2), "mean over scales"


def test_lecam_by_hand():
    real, fake = [torch.tensor([1.0, 3.0])], [torch.tensor([-1.0, 0.0])]
    averages = torch.tensor([[2.0], [-0.5]])
    assert adversary.lecam(real, fake, averages).item() == pytest.approx(
        (1.5**2 + 3.5**2) / 2 + (3**2 + 2**2) / 2
    )  # originals against the average of reconstructions, and vice versa


class Linear(nn.Module):
    """A discriminator with two logits per item, w·x and 3 w·x."""

    scales = 1

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, generator=generator()))

    def forward(self, x):
        verdict = (x * self.weight).flatten(1).sum(1)
        return [torch.stack([verdict, 3 * verdict], 1)], [[x * self.weight]]


def test_r1_by_hand_and_its_gradient():
    network = Linear((3, 4, 4))
    penalty = adversary.r1(network, torch.rand(5, 3, 4, 4))
    assert penalty.item() == pytest.approx(0.5 * (2 * network.weight).square().sum().item(), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(network.weight.grad, 4 * network.weight.detach())


def test_feature_matching_by_hand():
    real = [[torch.tensor([1.0, -3.0]), torch.tensor([2.0])]]
    fake = [[torch.tensor([0.0, -1.0]), torch.tensor([2.5])]]
    assert adversary.feature_matching(fake, real).item() == pytest.approx((1.5 / 2 + 0.5 / 2) / 2)
    assert adversary.feature_matching(real, real) == 0


# -- balance ------------------------------------------------------------------------------------


def test_the_balancer_makes_norms_follow_the_weights():
    balancer = balance.Balancer(lambda value: value)
    noise = generator()
    big, small = (scale * torch.randn(4, 1, 50, generator=noise) for scale in (1e4, 1e-4))
    weights = {"big": 1.0, "small": 3.0}
    mixed = balancer({"big": big, "small": small}, weights)
    alone = [balance.Balancer(lambda v: v)({name: g}, {name: 1.0}) for name, g in (("b", big), ("s", small))]
    torch.testing.assert_close(mixed, 0.25 * alone[0] + 0.75 * alone[1])
    for unit in alone:  # R = 1: the gradients of single items have norm 1 on average
        assert 4 * unit.flatten(1).norm(dim=1).mean().item() == pytest.approx(4 / 4 * 1.0, rel=1e-5)


def test_the_balancers_average_by_hand_and_only_what_is_committed_counts():
    balancer = balance.Balancer(lambda value: value, decay=0.5)
    gradient = torch.full((1, 4), 1.0)  # norm 2
    balancer({"l1": gradient}, {"l1": 1.0})
    balancer.commit()
    mixed = balancer({"l1": 2 * gradient}, {"l1": 1.0})  # norm 4: average (0.5 · 2 + 4) / 1.5
    torch.testing.assert_close(mixed, 2 * gradient / (5 / 1.5))
    balancer.discard()
    assert balancer.averages["l1"].tolist() == [2.0, 1.0]
    balancer({"l1": gradient * float("nan")}, {"l1": 1.0})
    balancer.discard()
    torch.testing.assert_close(balancer({"l1": 2 * gradient}, {"l1": 1.0}), mixed)


def test_the_balancer_does_not_depend_on_the_batch_size():
    gradient = torch.randn(1, 30, generator=generator())
    one, four = (balance.Balancer(lambda v: v)({"l": gradient.repeat(n, 1) / n}, {"l": 2.0}) for n in (1, 4))
    torch.testing.assert_close(four, one.repeat(4, 1) / 4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_last_layer_is_found(learned, precision):
    codec = copy.deepcopy(learned).train()
    size = (4, 3, 32, 32) if codec.spec.modality is Modality.IMAGE else (4, codec.spec.channels, 512)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        y, _ = codec.reconstruct(torch.rand(size, generator=generator()))
    found = balance.last_layer(y.float(), codec.parameters())
    layers = [m for m in codec.modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]
    used = [m for m in layers if m.weight is found]
    assert len(used) == 1
    if hasattr(codec, "decoder") and isinstance(codec.decoder, nn.Sequential):
        assert used == [m for m in codec.decoder.modules() if m in layers][-1:]


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms():
    """Weight and gradients of the codec equal those of plain autograd through codec and discriminator."""
    codec = copy.deepcopy(tiny("image/fsq")).train()
    versus = alone(codec, balance="adaptive", weight=0.3)
    x = torch.rand(2, 3, 32, 32, generator=generator())

    y = codec.reconstruct(x)[0]
    layer = codec.decoder[-2].weight
    reconstruction, fooling = (y - x).abs().mean(), -versus.network(y)[0][0].mean()
    norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (reconstruction, fooling)]
    wanted = norms[0] / (norms[1] + 1e-6)
    (2 * reconstruction + 0.3 * 2 * wanted * fooling).backward()
    straight = [p.grad.clone() for p in codec.parameters()]
    codec.zero_grad()
    versus.network.zero_grad()

    y = codec.reconstruct(x)[0]
    at = y.detach().requires_grad_()
    total, figures = versus.mix(x, y, at, {"l1": (at - x).abs().mean()}, {"l1": 2.0})
    total.backward()
    assert figures["adaptive_weight"].item() == pytest.approx(2 * wanted.item(), rel=1e-4)
    assert total.item() == pytest.approx((2 * reconstruction + 0.3 * 2 * wanted * fooling).item(), rel=1e-5)
    for mine, theirs in zip((p.grad for p in codec.parameters()), straight, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-7)
    assert all(p.grad is None for p in versus.network.parameters()), "the codec's step leaves D's gradients alone"


def test_the_codec_gets_the_adversarys_gradient_and_that_of_features():
    codec = tiny("audio/rvq")
    versus = alone(codec, 1024, weight=0.3, feature_matching=0.7)
    x, y = (0.1 * torch.randn(2, 1, 1024, generator=generator(seed)) for seed in (0, 1))
    y.requires_grad_()
    logits, features = versus.network(y)
    fooling = -sum(scale.mean() for scale in logits) / len(logits)
    matching = adversary.feature_matching(features, versus.network(x)[1])
    (wanted,) = torch.autograd.grad((y - x).square().mean() + 0.3 * fooling + 0.7 * matching, y)
    at = y.detach().requires_grad_()
    total, figures = versus.mix(x, y, at, {"l2": (at - x).square().mean()}, {"l2": 1.0})
    (got,) = torch.autograd.grad(total, y)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)
    assert set(figures) == {"adversarial", "feature_matching"}
    assert alone(codec, 1024).matching == 0.1 and alone(tiny("image/fsq")).matching == 0.0


# -- the discriminator's own updates ------------------------------------------------------------


@pytest.mark.parametrize("regularizer", ["lecam", "r1", "none"])
def test_the_discriminator_learns_to_tell_stripes_from_noise(regularizer):
    versus = alone(tiny("image/fsq"), regularizer=regularizer, regularizer_weight=0.01, lr=2e-3)
    noise = generator()
    stripes = torch.linspace(0, 12, 32).sin().mul(0.4).add(0.5).expand(4, 3, 32, 32)
    values = []
    for step in range(25):
        versus.begin(step, 1.0)
        versus._pairs.append((stripes, torch.rand(4, 3, 32, 32, generator=noise)))
        figures = versus.update()
        values.append(figures["discriminator"].item())
    assert values[0] == pytest.approx(2, abs=0.2) and values[-1] < 0.5
    assert figures["logits_real"] > 0.5 and figures["logits_fake"] < -0.5
    assert bool(figures["regularizer"] > 0) == (regularizer != "none")
    assert versus.lecam[0, 0] > 0 > versus.lecam[1, 0]


@pytest.mark.parametrize(("updates", "wanted"), [(1.0, [1] * 6), (2.0, [2] * 6), (2 / 3, [0, 1, 1, 0, 1, 1])])
def test_updates_a_step(updates, wanted, monkeypatch):
    versus = alone(tiny("image/fsq"), updates=updates)
    done = []
    monkeypatch.setattr(versus, "_update", lambda: done.append(versus.step) or {"discriminator": torch.zeros(())})
    for step in range(6):
        versus.begin(step, 1.0)
        versus._pairs.append((torch.zeros(1), torch.zeros(1)))
        versus.update()
    assert [done.count(step) for step in range(6)] == wanted


def test_a_nan_of_the_discriminator_is_left_out_and_counted():
    versus = alone(tiny("image/fsq"))
    x = torch.rand(2, 3, 32, 32)
    versus._pairs.append((x, 1 - x))
    assert "discriminator" in versus.update()
    before = copy.deepcopy(versus.state_dict())
    for i in range(20):
        versus.begin(i + 1, 1.0)
        versus._pairs.append((x * float("nan"), x))
        assert set(versus.update()) == {"discriminator_skipped"} and versus.skipped == i + 1
    assert same(before | {"skipped": 20}, versus.state_dict())
    versus._pairs.append((x, x * float("inf")))
    with pytest.raises(ValueError, match="NaN or Inf 21 times in a row") as error:
        versus.update()
    assert one_line(error)


def test_a_nan_of_the_codec_moves_neither_averages_nor_discriminator(tmp_path):
    run = Run(config(tmp_path, adversary=adversarial(balance="balancer")))
    batch = torch.rand(4, 3, 32, 32)
    assert {"adversarial", "discriminator", "logits_real", "logits_fake"} <= set(run._update(0, batch))
    before = copy.deepcopy(run.adversary.state_dict())
    broken = batch.clone()
    broken[0, 0, 0, 0] = float("nan")
    assert run._update(1, broken) is None and run.skipped == 1
    parts = ("discriminator", "lecam", "balancer")  # the learning rate follows the schedule
    assert all(same(before[key], run.adversary.state_dict()[key]) for key in parts)
    assert run._update(2, batch) is not None
    assert not any(same(before[key], run.adversary.state_dict()[key]) for key in parts)
    run.logs.close()


# -- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stop", "changes"),
    [
        ("image/rvq", 3, {"balance": "adaptive", "start": 5}),  # stopped before the adversary starts
        ("image/fsq", 7, {"balance": "adaptive", "start": 3, "regularizer": "r1", "updates": 2.0}),
        ("audio/rvq", 6, {"balance": "balancer", "start": 4, "updates": 0.67}),
    ],
)
def test_a_resumed_run_equals_the_straight_one(name, stop, changes, tmp_path):
    def cfg(out: str, **more) -> TrainConfig:
        return config(tmp_path / out, name, steps=10, batch_size=2, adversary=adversarial(**changes), **more)

    straight = train(cfg("straight"))
    train(cfg("parts", stop_after=stop))
    parts = train(cfg("parts", resume=True))
    saved, wanted = state.load(parts), state.load(straight)
    assert same(saved, wanted) and saved["adversary"]["skipped"] == 0
    assert (parts / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    a, b = log(straight), log(parts)
    assert all(b[k] == v for k, v in a.items() if k[1] != "items_per_second")
    first = min(step for step, key in a if key == "adversarial")
    assert first == changes["start"] + 1
    if changes["balance"] == "adaptive":
        assert all(a[step, "adaptive_weight"] > 0 for step in range(first, 11))
    else:
        assert {"l1", "stft", "adversarial", "feature_matching"} == set(saved["adversary"]["balancer"])


SHORT = OptimizerConfig(lr=3e-3, warmup=3)


def test_without_an_adversary_nothing_is_different_and_with_one_much_is(tmp_path):
    runs = {
        "off": {},
        "later": {"adversary": adversarial(start=3, balance="adaptive")},
        "on": {"adversary": adversarial(start=1)},
    }
    out = {key: train(config(tmp_path / key, steps=3, optimizer=SHORT, **changes)) for key, changes in runs.items()}
    weights = {key: (folder / "model.safetensors").read_bytes() for key, folder in out.items()}
    assert weights["off"] == weights["later"] != weights["on"]
    saved = {key: state.load(folder) for key, folder in out.items()}
    assert saved["later"].keys() == saved["on"].keys() == saved["off"].keys() | {"adversary"}
    assert saved["off"]["recipe"].keys() == saved["on"]["recipe"].keys() - {"adversary"}
    assert "adversary" not in (out["off"] / "config.yaml").read_text()
    for key, other in (("off", {"adversary": adversarial(start=1)}), ("on", {})):
        with pytest.raises(ValueError, match="trained with adversary=") as error:
            train(config(out[key], steps=6, optimizer=SHORT, resume=True, **other))
        assert one_line(error)


def test_parts_of_a_batch_count_as_the_whole(tmp_path):
    """With accumulate=2 the discriminator makes one step on the whole batch."""
    seen = {}
    for parts in (1, 2):
        cfg = config(tmp_path / str(parts), precision="32-true", accumulate=parts, adversary=adversarial())
        run = Run(cfg)
        before = copy.deepcopy(run.adversary.network.state_dict())
        run._update(0, torch.rand(4, 3, 32, 32, generator=generator()))
        seen[parts] = {k: v - before[k] for k, v in run.adversary.network.state_dict().items()}
        run.logs.close()
    for key, change in seen[1].items():
        torch.testing.assert_close(seen[2][key], change, rtol=1e-2, atol=1e-5)
        assert change.abs().max() > 1e-4


def test_the_command_trains_with_an_adversary(tmp_path):
    small = [f"codec.{k}={json.dumps(v).replace(' ', '')}" for k, v in TINY["image/fsq"].items()]
    command = ["train", "codec=image/fsq", *small, "data=scenes", "data.count=8", "data.size=40", "crop.size=32"]
    command += ["steps=3", "batch_size=2", "log_every=1", "device=cpu", f"out={tmp_path / 'run'}", "losses.l2=1"]
    assert main([*command, "adversary.weight=0.1", "adversary.filters=4", "adversary.balance=adaptive"]) in (0, None)
    assert log(tmp_path / "run")[3, "discriminator"] > 0
    assert codecs.load(tmp_path / "run").counts.sum() > 0
    assert "weight=0.1" in (tmp_path / "run" / "config.yaml").read_text()


PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from tokenloom.train.config import *
from tokenloom.train.loop import Run
network = {network}
def go(out):
    for balance in ("adaptive", "balancer"):
        run = Run(TrainConfig(
            codec=dict(name="image/fsq", levels=[8, 5, 4], **network), data=dict({scenes}),
            losses={{"l1": 1.0, "l2": 1.0}}, crop=CropConfig(size=32), steps=4, batch_size=4, device="cpu",
            precision="32-true", adversary=AdversaryConfig(weight=0.1, filters=4, lr=1e-3, balance=balance),
            out=out + "/" + balance))
        batch = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        world, rank = run.fabric.world_size, run.fabric.global_rank
        figures = [run._update(step, batch.flip(step % 2 + 2).chunk(world)[rank]) for step in range(3)]
        torch.save([run.adversary.state_dict(), run.model.state_dict(), figures], f"{{out}}/{{balance}}-{{rank}}")
        run.logs.close()
if __name__ == "__main__":
    go(sys.argv[1])
"""


@pytest.mark.usefixtures("loopback")
def test_two_processes_equal_one(tmp_path):
    """Discriminator, adaptive weight and averages equal those of one process with the whole batch."""
    program = tmp_path / "run.py"
    program.write_text(PROGRAM.format(network=NETWORK, scenes=SCENES))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (tmp_path / "2").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(program)]
    done = subprocess.run(
        [*command, str(tmp_path / "2")], capture_output=True, text=True, check=False, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "1").mkdir()
    runpy.run_path(str(program), run_name="one")["go"](str(tmp_path / "1"))
    for kind in ("adaptive", "balancer"):
        one, first, second = (
            torch.load(tmp_path / name, weights_only=True) for name in (f"1/{kind}-0", f"2/{kind}-0", f"2/{kind}-1")
        )
        assert same(first[0], second[0]) and same(first[1], second[1])
        for a, b in zip(first[2], second[2], strict=True):
            shared = {"adaptive_weight", "logits_real", "logits_fake", "gradient_norm"} & set(a)
            assert same({k: a[k] for k in shared}, {k: b[k] for k in shared}) and len(shared) >= 3
        for step in range(3):
            for key in ("logits_real", "logits_fake", *(["adaptive_weight"] if kind == "adaptive" else [])):
                assert first[2][step][key].item() == pytest.approx(one[2][step][key].item(), rel=2e-2, abs=2e-3)
        for key, value in one[0]["discriminator"].items():
            torch.testing.assert_close(first[0]["discriminator"][key], value, rtol=1e-2, atol=1e-3)
        assert first[0]["lecam"].any() and bool(first[0]["balancer"]) == (kind == "balancer")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"regularizer": "lecan"}, "adversary.regularizer must be one of lecam, r1, none, got 'lecan'"),
        ({"balance": "evenly"}, "adversary.balance must be one of none, adaptive, balancer, got 'evenly'"),
        ({"weight": -1.0}, "adversary.weight must be between 0 and 1e+06, got -1.0"),
        ({"weight": float("nan")}, "adversary.weight must be between 0 and 1e+06, got nan"),
        ({"weight": True}, "adversary.weight must be between 0 and 1e+06, got True"),
        ({"start": -1}, "adversary.start must be an integer of at least 0, got -1"),
        ({"start": 1.5}, "got 1.5"),
        ({"updates": 0.0}, "adversary.updates must be between 0.01 and 8, got 0.0"),
        ({"lr": 2.0}, "adversary.lr must be between 0 and 1, got 2.0"),
        ({"betas": [0.5]}, "adversary.betas"),
        ({"betas": [0.5, 1.0]}, "adversary.betas[1] must be between 0 and 0.99999, got 1.0"),
        ({"filters": 0}, "adversary.filters must be an integer of at least 1, got 0"),
        ({"regularizer_weight": -1.0}, "adversary.regularizer_weight must be between 0 and 1e+09, got -1.0"),
        ({"feature_matching": "much"}, "got 'much'"),
    ],
)
def test_mistakes_are_one_line(changes, says, tmp_path):
    for weight in ({}, {"weight": 0.0}):  # checked even without an adversary
        with pytest.raises(ValueError) as error:
            train(config(tmp_path / "run", adversary=adversarial(**(weight | changes))))
        assert says in str(error.value) and one_line(error)
    assert not (tmp_path / "run").exists()


def test_crops_too_small_for_the_adversary(tmp_path):
    with pytest.raises(ValueError, match="at least 24 pixels, got 16"):
        train(config(tmp_path / "run", crop=CropConfig(size=16), adversary=adversarial()))
    assert not (tmp_path / "run").exists()
