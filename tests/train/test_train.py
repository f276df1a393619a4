"""Tiny trainings of codecs learn, resume exactly, and report mistakes in one line."""

from __future__ import annotations

import copy
import csv
import errno
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support import disk
from support.codecs import NETWORK, TINY
from support.training import PHRASES, SCENES, config, log, losses_of, same

from tokenloom import codecs, data
from tokenloom.codecs import CodeSpec, LatentCodec, Modality, rate
from tokenloom.codecs.bitstream import container, packing
from tokenloom.codecs.quantizers import FSQ
from tokenloom.train import interrupts, losses, state
from tokenloom.train.average import WeightAverage
from tokenloom.train.config import CropConfig, OptimizerConfig, TrainConfig
from tokenloom.train.loop import Run, learning_rate, train

# -- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image/fsq", "image/vqgan", "image/bsq", "audio/rvq"])
def test_loss_falls_and_the_checkpoint_works(name, tmp_path):
    out = train(config(tmp_path / "run", name, steps=60, ema=0.9))
    values = losses_of(out)
    assert len(values) == 60 and sum(values[-10:]) < 0.85 * sum(values[:10])
    assert {"model.safetensors", "config.yaml", "state.pt", "log.csv", "samples", "tensorboard"} <= {
        p.name for p in out.iterdir()
    }
    assert len(list((out / "samples").iterdir())) == (2 if name == "audio/rvq" else 1)
    assert any(out.joinpath("tensorboard").iterdir())

    codec = codecs.load(out)
    assert codec.counts.sum() > 0
    item = data.open_source(**(PHRASES if name == "audio/rvq" else SCENES))[0]
    x = item.signal[None]
    codes = codec.encode(x)
    nominal, entropy = rate.nominal(codec.spec, codes).item(), rate.entropy(codec, codes).item()
    assert 0 < entropy <= 1.1 * nominal
    (written,) = codec.compress(x)
    packed = packing.pack(codes.indices[0].flatten(1).numpy(), codec.spec.codebook_sizes)
    assert len(written) <= len(packed) + 32
    assert torch.equal(codecs.decompress(written), codec.decode(codes))


@pytest.mark.parametrize("name", ["image/rvq", "audio/rvq"])
def test_a_decoder_trains_alone(name, tmp_path):
    """The codes stay those of the codec that it starts from, and the decoder fits them better."""
    first = train(config(tmp_path / "first", name, store="int8"))
    second = train(config(tmp_path / "second", name, codec={}, decoder_of=str(first), store="int8", steps=60,
                          ema=0.9, losses={"l1": 1.0}))  # fmt: skip
    old, new = codecs.load(first), codecs.load(second)
    x = torch.stack([item.signal[..., :1024] for item in data.open_source(**(PHRASES if "audio" in name else SCENES))])
    assert old.fingerprint != new.fingerprint
    for setting in old.settings.values:
        codes = old.encode(x, setting)
        assert torch.equal(codes.indices, new.encode(x, setting).indices)
    assert (new.decode(codes) - x).abs().mean() < 0.95 * (old.decode(codes) - x).abs().mean()
    encoders = [
        {k: v for k, v in c.state_dict().items() if not k.startswith(("decoder", "counts"))} for c in (old, new)
    ]
    assert same(*encoders)


def test_what_a_decoder_alone_refuses(tmp_path):
    for changes, message in (
        ({"decoder_of": "digits-rvq"}, "leave codec= out"),
        ({"decoder_of": "digits-rvq", "codec": {}}, r"leave losses\.quantizer out"),
        ({"decoder_of": "image/jpeg", "codec": {}, "losses": {}}, "has no weights to train"),
        ({"decoder_of": "digits-rq", "codec": {}, "losses": {}}, "digits-rvq"),
    ):
        with pytest.raises(ValueError, match=message):
            train(config(tmp_path, **changes))


def test_range_coding_is_used_where_it_is_shorter(tmp_path):
    """A uniform image repeats one code, which costs almost nothing under counts of such images."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (64, 64), (90, 120, 150 + i)).save(folder / f"{i}.png")
    out = train(config(tmp_path / "run", data={"name": "folder", "path": str(folder)}, steps=3))
    codec = codecs.load(out)
    x = codecs.read(folder / "0.png")[None]
    codes = codec.encode(x)
    (written,) = codec.compress(x)
    assert written[container.HEAD + 2] == container.RANGE_CODED
    assert rate.entropy(codec, codes) < 0.7 * rate.nominal(codec.spec, codes)
    assert len(written) < len(packing.pack(codes.indices[0].flatten(1).numpy(), codec.spec.codebook_sizes)) + 18


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precisions(precision, tmp_path):
    out = train(config(tmp_path, "image/rvq", precision=precision, steps=4))
    codec = codecs.load(out)
    assert all(v.dtype in (torch.float32, torch.int64, torch.bool) for v in codec.state_dict().values())
    assert torch.isfinite(codec.decode(codec.encode(torch.rand(1, 3, 20, 20)))).all()


def test_stores_take_fewer_bytes(tmp_path):
    sizes = [
        (train(config(tmp_path / store, steps=1, store=store)) / "model.safetensors").stat().st_size
        for store in ("float32", "float16")
    ]
    assert sizes[1] < 0.7 * sizes[0]


# -- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("image/rvq", {"workers": 1}),
        ("image/fsq", {"precision": "32-true"}),
        ("audio/rvq", {}),
        ("image/bsq", {"ema": 0.9}),
    ],
)
def test_a_resumed_run_equals_the_straight_one(name, changes, tmp_path):
    straight = train(config(tmp_path / "straight", name, **changes))
    parts = tmp_path / "parts"
    train(config(parts, name, stop_after=20, **changes))
    assert state.load(parts)["step"] == 20
    early = (parts / "model.safetensors").read_bytes()
    train(config(parts, name, resume=True, **{**changes, "workers": 0}))
    final = (parts / "model.safetensors").read_bytes()
    assert final == (straight / "model.safetensors").read_bytes() and final != early
    assert same(state.load(parts), state.load(straight))
    a, b = log(straight), log(parts)
    later = {k: v for k, v in a.items() if k[0] > 20 and k[1] != "items_per_second"}
    assert len(later) >= 100 and all(b[k] == v for k, v in later.items())
    earlier = {k: v for k, v in a.items() if k[0] <= 20 and k[1] != "items_per_second"}
    assert all(b[k] == v for k, v in earlier.items())


def test_a_run_cut_off_between_checkpoints_goes_on_from_the_last(tmp_path, monkeypatch):
    """After a power failure, the steps since the last checkpoint are repeated and logged once."""
    straight = train(config(tmp_path / "straight", "image/vqgan"))
    cut = tmp_path / "cut"
    real = Run._update

    def fails(self, step, batch):
        if step == 17:
            raise KeyboardInterrupt
        return real(self, step, batch)

    monkeypatch.setattr(Run, "_update", fails)
    with pytest.raises(KeyboardInterrupt):
        train(config(cut, "image/vqgan", save_every=10))
    monkeypatch.undo()
    assert state.load(cut)["step"] == 10
    train(config(cut, "image/vqgan", resume=True))
    assert (cut / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    rows = [(r["step"], r["name"]) for r in csv.DictReader((cut / "log.csv").open())]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("cut", ["the last row", "the end of the last row", "nothing"])
def test_a_run_cut_off_in_its_last_validation_logs_each_value_once(cut, tmp_path):
    out = train(config(tmp_path, steps=2))
    path, straight = out / "log.csv", log(out)
    text = path.read_text()
    path.write_text({"the last row": text[: text.rindex("2,")], "the end of the last row": text[:-3]}.get(cut, text))
    (out / "run.json").write_text((out / "run.json").read_text().replace('"finished"', '"running"'))
    train(config(tmp_path, steps=2, resume=True))
    with path.open() as file:
        rows = [(r["step"], r["name"]) for r in csv.DictReader(file)]
    assert log(out) == straight and len(rows) == len(set(rows))


def test_seeds_differ(tmp_path):
    a, b = (train(config(tmp_path / str(seed), steps=3, seed=seed)) for seed in (0, 1))
    assert (a / "model.safetensors").read_bytes() != (b / "model.safetensors").read_bytes()


PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from tokenloom.train.config import *
from tokenloom.train.loop import train
network = {network}
train(TrainConfig(codec=dict(name="image/fsq", levels=[8, 5, 4], **network), data=dict({scenes}), losses={{"l1": 1.0}},
                  crop=CropConfig(size=32), steps=100000, batch_size=2, log_every=1, save_every=100000,
                  validate_every=100000, workers=int(sys.argv[2]), device="cpu", out=sys.argv[1]))
"""


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 1), (signal.SIGHUP, 0)])
def test_a_signal_leaves_a_whole_checkpoint(number, workers, tmp_path):
    program = PROGRAM.format(network=NETWORK, scenes=SCENES)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run"), str(workers)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 300
        while not (tmp_path / "run" / "log.csv").exists() or len((tmp_path / "run" / "log.csv").read_text()) < 300:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        os.killpg(process.pid, number)  # as a terminal does, to the workers too
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-2000:]
    assert "Traceback" not in errors
    saved = state.load(tmp_path / "run")
    assert 0 < saved["step"] < 100_000
    assert max(step for step, _ in log(tmp_path / "run")) == saved["step"]
    codec = codecs.load(tmp_path / "run")
    assert codec.decode(codec.encode(torch.rand(1, 3, 9, 9))).shape == (1, 3, 9, 9)


def test_only_a_later_ctrl_c_ends_a_run_before_it_saves(monkeypatch):
    """torchrun may pass SIGTERM on while a run saves to a slow disk."""
    said, now = [], [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    received = interrupts.Interrupts(said.append)
    with received.handle():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 20
        os.kill(os.getpid(), signal.SIGTERM)
        assert received.number == signal.SIGTERM and len(said) == 1 and said[0].startswith("SIGTERM: finishing")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()


def test_a_signal_in_the_middle_of_a_line_is_received():
    def reentrant(_: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    received = interrupts.Interrupts(reentrant)
    with received.handle():
        os.kill(os.getpid(), signal.SIGTERM)
        assert received.number == signal.SIGTERM


def test_state_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    state.save({"step": 1}, tmp_path)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match=r"No space left on device: '.*/state.pt'"):
        state.save({"step": 2}, tmp_path)
    assert state.load(tmp_path) == {"step": 1} and [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_damaged_state_goes_back_to_the_one_before(tmp_path):
    for step in (1, 2, 3):
        state.save({"step": step, "weights": torch.full((1000,), float(step))}, tmp_path)
    assert state.load(tmp_path)["step"] == 3
    last, good = tmp_path / state.NAME, (tmp_path / state.NAME).read_bytes()
    at = good.index(torch.full((4,), 3.0).numpy().tobytes()) + 5
    for content in (good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], good[:-100], b""):
        last.write_bytes(content)
        with pytest.warns(UserWarning, match=r"state\.pt is damaged: .*; going on from state\.previous\.pt") as told:
            assert state.load(tmp_path)["step"] == 2
        assert told[0].filename == __file__, "the warning points at the caller"
    last.unlink()  # as a kill between two renames leaves it
    assert state.load(tmp_path)["step"] == 2 and state.exists(tmp_path)
    (tmp_path / state.PREVIOUS).write_bytes(b"")
    with pytest.raises(ValueError, match=r"state\.previous\.pt is damaged"):
        state.load(tmp_path)


def test_a_state_is_on_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    events = disk.record(monkeypatch)
    state.save({"step": torch.rand(100_000)}, tmp_path)
    assert events == ["flush", "state.pt: flushed", "flush"]


def test_a_strangers_state_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'trace'}",))

    torch.save({"step": Evil()}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="damaged") as error:
        state.load(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "trace").exists()
    for content in (b"", b"PK\3\4", b"\0" * 100):
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            state.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"resume needs .*/none/state.pt, which does not exist; begin the run"):
        state.load(tmp_path / "none")


# -- the parts ----------------------------------------------------------------------------------


def test_schedule():
    cfg = TrainConfig(steps=100, optimizer=OptimizerConfig(lr=1.0, warmup=10, final=0.1))
    rates = [learning_rate(step, cfg) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == pytest.approx(1)
    assert rates[100] == pytest.approx(0.1) and rates[55] == pytest.approx(0.55)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize("name", ["image/vqgan", "audio/rvq"])
def test_a_nan_step_is_counted_and_changes_nothing(name, tmp_path, monkeypatch):
    """Weights stay, and so do codebooks, which the forward pass updates in training."""
    run = Run(config(tmp_path, name, precision="32-true"))
    size = (4, 3, 32, 32) if name == "image/vqgan" else (4, 1, 1024)
    batch = torch.rand(size)
    for step in range(3):
        assert run._update(step, batch) is not None
    before, averaged = copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.average.module.state_dict())
    broken = batch.clone()
    broken.view(-1)[7] = float("nan")
    assert run._update(3, broken) is None and run.skipped == 1
    assert same(run.model.state_dict(), before) and same(run.average.module.state_dict(), averaged)
    monkeypatch.setitem(
        losses.LOSSES, "l1", lambda x, y: (x - x.detach() + 1e-40).sqrt().mean()
    )  # a finite loss with an infinite gradient
    assert run._update(4, batch) is None and run.skipped == 2
    assert same(run.model.state_dict(), before) and same(run.average.module.state_dict(), averaged)
    run.logs.close()


def test_a_run_of_nans_gives_up(tmp_path, monkeypatch):
    real = losses.LOSSES["l1"]
    monkeypatch.setitem(losses.LOSSES, "l1", lambda x, y: real(x, y) if x is y else real(x, y) * float("inf"))
    with pytest.raises(ValueError, match="NaN or Inf on 4 steps in a row, the last one 3") as error:
        train(config(tmp_path, losses={"l1": 1.0}, max_skips=3))
    assert "\n" not in str(error.value)


def test_skips_are_told_of(tmp_path, monkeypatch, capsys):
    """An infinite loss is skipped, even if its gradient is finite."""
    real, calls = losses.LOSSES["l1"], []

    def sometimes(x, y):
        calls.append(0)
        return real(x, y) + (float("inf") if len(calls) in (4, 5, 9) else 0)

    monkeypatch.setitem(losses.LOSSES, "l1", sometimes)
    out = train(config(tmp_path, losses={"l1": 1.0}, steps=12, max_skips=2))
    assert "12 steps (3 skipped for NaN or Inf), psnr" in capsys.readouterr().err
    assert log(out)[12, "skipped"] == 3
    assert [step for step, name in log(out) if name == "loss"] == [1, 2, 5, 6, 7, 9, 10, 11, 12]


def test_ema_is_an_average(tmp_path):
    run = Run(config(tmp_path, ema=0.5))
    start = [p.clone() for p in run.average.module.parameters()]
    run._update(100, torch.rand(4, 3, 32, 32))
    for old, mine, new in zip(start, run.average.module.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(mine, (old + new.detach()) / 2)
    run.logs.close()


def test_the_average_warms_up():
    """The decay of step t is (1 + t) / (10 + t), at most `decay`: the first weights are soon forgotten."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.95, fabric=None, sharded=False, counted=())
    torch.nn.init.ones_(model.weight)
    left = 1.0  # distance of the average from the weights, which are 1 from now on
    for step, decay in ((0, 1 / 10), (1, 2 / 11), (90, 91 / 100), (170, 0.95), (171, 0.95), (10**6, 0.95)):
        average.update(model, step)
        left *= decay
        assert 1 - average.module.weight.item() == pytest.approx(left, abs=1e-6)


def test_a_broken_file_does_not_end_a_run(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    scenes = data.open_source(**SCENES)
    for i in range(6):
        codecs.write(scenes[i].signal, folder / f"{i}.png")
    (folder / "2.png").write_bytes(b"no picture")
    source = {"name": "folder", "path": str(folder)}
    with pytest.warns(UserWarning, match="broken"):
        out = train(config(tmp_path / "run", data=source, steps=4))
    assert codecs.load(out).counts.sum() > 0
    with pytest.raises(ValueError, match=r"2\.png"):
        train(config(tmp_path / "strict", data={**source, "strict": True}, steps=4))


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_losses_are_zero_for_equal_signals_and_finite_everywhere(name):
    shape = (2, 3, 48, 40) if losses.ONLY.get(name) is Modality.IMAGE else (2, 1, 2048)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator)
    assert losses.LOSSES[name](x, x).item() == pytest.approx(0, abs=1e-5)
    near, far = x + 0.01 * torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
    assert 0 < losses.LOSSES[name](near, x) < losses.LOSSES[name](far, x)
    for a, b in ((x, x), (torch.zeros(shape), torch.zeros(shape)), (torch.zeros(shape), x), (x, torch.ones(shape))):
        a = a.clone().requires_grad_()
        loss = losses.LOSSES[name](a, b)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(a.grad).all()


# -- a toy codec in the same loop ---------------------------------------------------------------


class Blocks(LatentCodec):
    """Codec of the means of 4×4 blocks, between two learned 1×1 convolutions."""

    def __init__(self, channels: int = 4) -> None:
        quantizer = FSQ([5] * channels)
        spec = CodeSpec(Modality.IMAGE, quantizer.sizes, (4, 4), 3, None, total=True, ordered=False, causal=False)
        super().__init__(spec, quantizer)
        self.down, self.up = torch.nn.Conv2d(3, channels, 1), torch.nn.Conv2d(channels, 3, 1)

    def analyze(self, x):
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4), mode="replicate")
        return self.down(F.avg_pool2d(x, 4) * 2 - 1)

    def synthesize(self, latents):
        return F.interpolate(self.up(latents), scale_factor=4)


def test_a_toy_codec_trains(tmp_path):
    codecs.register("image/toy-train")(Blocks)
    try:
        out = train(config(tmp_path, "image/toy-train", steps=30))
        values = losses_of(out)
        assert sum(values[-5:]) < 0.9 * sum(values[:5])
        codec = codecs.load(out)
        assert isinstance(codec, Blocks) and codec.counts.sum() > 0
        (written,) = codec.compress(torch.rand(1, 3, 21, 18))
        assert codecs.decompress(written).shape == (1, 3, 21, 18)
    finally:
        codecs.registry._classes.pop("image/toy-train")


# -- mistakes of users --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"losses": {"l3": 1.0}}, "l3"),
        ({"losses": {"l1": -1.0}}, "losses.l1 must be at least 0, got -1"),
        ({"losses": {"stft": 1.0}}, "stft"),
        ({"losses": {"quantizer": 1.0}}, "reconstruction"),
        ({"losses": {"l1": "much"}}, "l1"),
        ({"losses": {"l1": float("nan")}}, "l1"),
        ({"data": {}}, "no data"),
        ({"data": {"name": "nothing"}}, "nothing"),
        ({"data": {"name": "folder"}}, "path"),
        ({"data": {"name": "folder", "path": "no/such/folder"}}, "no/such/folder"),
        ({"data": {**SCENES, "colour": 3}}, "colour"),
        ({"data": {**SCENES, "count": 1}}, "at least 2"),
        ({"data": PHRASES}, "audio"),
        ({"codec": {"name": "audio/rvq", **TINY["audio/rvq"]}, "losses": {"l1": 1.0}}, "image"),
        ({"validation": {"name": "nothing"}}, "nothing"),
        ({"validation": "photos"}, "validation must be a data source"),
        ({"validation": dict(PHRASES)}, "holds audio, such as the item"),
        ({"accumulate": 3}, "into accumulate=3 parts"),
        ({"accumulate": 0}, "accumulate"),
        ({"max_skips": -1}, "max_skips"),
        ({"resume": True}, "state.pt"),
        ({"precision": "fp8"}, "fp8"),
        ({"precision": "16-mixed"}, "GPU"),
        ({"store": "int4"}, "int8"),
        ({"device": "tpu"}, "tpu"),
        ({"device": "cuda"}, "cuda"),
        ({"codec": {}}, "no codec"),
        ({"codec": {"name": "image/nothing"}}, "image/nothing"),
        ({"codec": {"name": "image/png"}}, "image/png"),
        ({"codec": {"name": "image/fsq", "level": 3}}, "level"),
        ({"codec": {"name": "image/fsq", "stride": 7}}, "stride"),
        ({"codec": {"name": "image/fsq", "stride": 8, "patch": 2, "widths": [8, 16]}}, "stride"),
        ({"codec": {"name": "audio/rvq", "ratios": [0]}, "data": dict(PHRASES)}, "ratios"),
        ({"task": "sing"}, "sing"),
        ({"steps": 0}, "steps"),
        ({"stop_after": 0}, "stop_after"),
        ({"stop_after": -1}, "stop_after"),
        ({"batch_size": 0}, "batch_size"),
        ({"log_every": 0}, "log_every"),
        ({"workers": -1}, "workers"),
        ({"seed": -1}, "seed"),
        ({"ema": 1.5}, "ema"),
        ({"precision": "bf16-true"}, "bf16-true"),
        ({"crop": CropConfig(size=0)}, "size"),
        ({"crop": CropConfig(scale=0)}, "scale"),
        ({"crop": CropConfig(pad="zeros")}, "pad"),
        ({"crop": CropConfig(gain_db=[6, -12])}, "gain_db"),
        ({"crop": CropConfig(size=100_000)}, "crop.size must be at most 4096 pixels, got 100000"),
        ({"crop": CropConfig(size=16), "losses": {"msssim": 1.0}}, "33 pixels"),
        ({"optimizer": OptimizerConfig(lr=-1)}, "lr"),
        ({"optimizer": OptimizerConfig(lr=float("nan"))}, "lr"),
        ({"optimizer": OptimizerConfig(betas=[0.9])}, "betas"),
        ({"optimizer": OptimizerConfig(warmup=-1)}, "warmup"),
        ({"optimizer": OptimizerConfig(clip=0)}, "clip"),
    ],
)
def test_mistakes_are_one_line(changes, says, tmp_path):
    if says in ("GPU", "cuda") and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        train(config(tmp_path / "run", **changes))
    assert says in str(error.value) and "\n" not in str(error.value), str(error.value)
    assert not list(tmp_path.iterdir())


def test_mistakes_about_an_existing_run(tmp_path):
    out, same_rate = tmp_path / "run", {"optimizer": OptimizerConfig(lr=3e-3, warmup=1)}
    train(config(out, steps=2, **same_rate))
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="out must name the folder"):
        train(config(""))
    for changes, says in (
        ({}, f"continue it with resume={out}"),
        ({"resume": True, "seed": 1}, "seed=0; it cannot go on with 1"),
        ({"resume": True, "codec": {"name": "image/fsq", **TINY["image/fsq"], "widths": [8, 24]}}, "architecture"),
        ({"resume": True, "codec": {"name": "image/rvq", **TINY["image/rvq"]}}, "architecture"),
        ({"resume": True, "losses": {"l1": 1.0}}, "losses.l2=1.0"),
        ({"resume": True, "batch_size": 2}, "batch_size=4"),
        ({"resume": True, "optimizer": OptimizerConfig(lr=1e-3, warmup=5)}, "optimizer.lr=0.003"),
        ({"resume": True, "data": {**SCENES, "count": 30}}, "data.items=23"),
        ({"resume": True, "steps": 1}, "already at step 2"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            train(config(out, **(same_rate | changes)))
        assert "\n" not in str(error.value)
    assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "state.pt").write_bytes(b"broken")
    with pytest.raises(ValueError, match="damaged"):
        train(config(out, resume=True))
