"""One loop for every task: schedule, EMA, clipping, exact resume, logs, and a checkpoint at the end."""

from __future__ import annotations

import copy
import math
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenloom import codecs, data
from tokenloom.codecs import Modality, registry, validate
from tokenloom.data.loader import Augment, crops
from tokenloom.data.subset import Subset

from . import codec as task_codec
from . import state
from .config import TrainConfig
from .logs import Logs, NoLogs
from .losses import weights

SKIPS_ALLOWED = 20
"""Consecutive steps whose loss may be NaN or Inf before a run gives up."""
DEFAULT_CROP = {Modality.IMAGE: 128, Modality.AUDIO: 1}
"""Pixels, seconds."""
HELD_OUT = 16


def train(cfg: TrainConfig) -> Path:
    """Run a training to its end (or `stop_after`, or a signal); the folder that `codecs.load` reads.

    Everything that a user can get wrong raises ValueError or FileNotFoundError before the first step.
    """
    run = Run(cfg)
    try:
        run.go()
    finally:
        run.logs.close()
    return run.out


def learning_rate(step: int, cfg: TrainConfig) -> float:
    """Linear warm-up, then half a cosine down to `final` of the peak at `steps`."""
    o = cfg.optimizer
    if step < o.warmup:
        return o.lr * (step + 1) / o.warmup
    progress = (step - o.warmup) / max(1, cfg.steps - o.warmup)
    return o.lr * (o.final + (1 - o.final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


class Run:
    """One training: built from a config, resumed where asked, then `go()`."""

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg = cfg
        self.out = Path(cfg.out)
        _check(cfg, self.out)
        self.fabric = _fabric(cfg)
        _seed(cfg.seed, 0)
        arguments = dict(cfg.codec)
        codec = codecs.build(arguments.pop("name"), **arguments)
        if not isinstance(codec, codecs.LatentCodec):
            raise ValueError(f"{codec.name} has nothing to train; it is ready to use")
        self.weights = weights(cfg.losses, codec.spec.modality)
        self.train_set, self.validation_set = _split(cfg)
        self.ema = copy.deepcopy(codec).requires_grad_(False).to(self.fabric.device)
        task = task_codec.CodecTask(codec, self.weights)
        optimizer = torch.optim.AdamW(
            task.parameters(), cfg.optimizer.lr, tuple(cfg.optimizer.betas), weight_decay=cfg.optimizer.weight_decay
        )
        self.codec = codec
        self.task, self.optimizer = self.fabric.setup(task, optimizer)
        self.step = 0
        self.skipped = 0
        if cfg.resume:
            self._resume()
        self.first = self.fabric.is_global_zero  # of several processes, the one that writes
        self.logs = Logs(self.out, self.step, cfg.steps) if self.first else NoLogs()
        self.interrupted = False
        self.process = os.getpid()

    # -- the loop ---------------------------------------------------------------------------------

    def go(self) -> None:
        cfg = self.cfg
        last = min(cfg.steps, cfg.stop_after or cfg.steps)
        previous = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        consecutive = 0
        try:
            for step, batch in self._batches(last):
                _seed(cfg.seed, step + 1)  # dropout, k-means and revival depend on the step alone
                terms = self._update(step, batch.to(self.fabric.device))
                consecutive = 0 if terms else consecutive + 1
                if consecutive > SKIPS_ALLOWED:
                    raise ValueError(f"the loss was NaN or Inf on {consecutive} steps in a row, the last one {step}")
                self.step = step + 1
                self.logs.advance(self.step, len(batch))
                if self.step % cfg.log_every == 0 and terms:
                    self._log(terms)
                if self.step % cfg.validate_every == 0 and self.step < cfg.steps:
                    self._validate()
                if self.step % cfg.save_every == 0:
                    self._save_state()
                if self._stops():
                    break
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        self._save_state()
        if self.first:
            self._finish()
        self.fabric.barrier()

    def _finish(self) -> None:
        """The model first: a second interruption may end the validation."""
        cfg = self.cfg
        self.ema.eval()
        if self.step >= cfg.steps:
            task_codec.count_codes(self.ema, self.train_set, self.fabric.device)
        trained = {"steps": self.step, "of": cfg.steps, "losses": self.weights}
        registry.save(self.ema, self.out, half=cfg.half, trained=trained)
        figures = self._validate()
        self.logs.say(f"{self.out}: {self.step} steps, " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))

    def _batches(self, last: int) -> Any:
        cfg, spec = self.cfg, self.codec.spec
        audio = spec.modality is Modality.AUDIO
        size = cfg.crop.size or DEFAULT_CROP[spec.modality] * (spec.sample_rate if audio else 1)
        return crops(
            self.train_set, batch_size=cfg.batch_size, size=size, seed=cfg.seed, start_step=self.step, steps=last,
            workers=cfg.workers, strict=bool(cfg.data.get("strict", False)),
            sample_rate=spec.sample_rate, channels=spec.channels if audio else None,
            augment=Augment(cfg.crop.flip, cfg.crop.scale, cfg.crop.pad, tuple(cfg.crop.gain_db)),
            rank=self.fabric.global_rank, world_size=self.fabric.world_size,
        )  # fmt: skip

    def _update(self, step: int, batch: Tensor) -> dict[str, Tensor] | None:
        """One optimizer step; None where the gradient was not finite and the step was left out.

        The gradient, not the loss, decides: it is the same in all processes.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.cfg)
        self.task.train()
        total, terms = self.task(batch)
        self.fabric.backward(total)
        norm = self.fabric.clip_gradients(
            self.task, self.optimizer, max_norm=self.cfg.optimizer.clip, error_if_nonfinite=False
        )
        if not torch.isfinite(norm):
            return self._skip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._average(step)
        return {"loss": total.detach(), **terms, "gradient_norm": norm}

    @torch.no_grad()
    def _skip(self) -> None:
        """Leave a step out; codebooks, which its forward pass has moved, go back to the step before."""
        self.skipped += 1
        if self.cfg.precision == "16-mixed":
            self.optimizer.step()  # leaves the step out itself, and lowers its loss scale
        self.optimizer.zero_grad()
        for mine, before in zip(self.codec.buffers(), self.ema.buffers(), strict=True):
            mine.copy_(before)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """EMA of the weights, with a warm-up; buffers (codebooks) are taken as they are."""
        decay = min(self.cfg.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.ema.parameters()), [p.detach() for p in self.codec.parameters()], 1 - decay)
        for mine, theirs in zip(self.ema.buffers(), self.codec.buffers(), strict=True):
            if mine is not self.ema.counts:
                mine.copy_(theirs)

    # -- around it --------------------------------------------------------------------------------

    def _log(self, terms: dict[str, Tensor]) -> None:
        values = {name: float(value) for name, value in terms.items()}
        values["items_per_second"] = self.logs.rate()
        self.logs.scalars(self.step, values, bar=True)
        self.logs.scalars(self.step, {"lr": learning_rate(self.step - 1, self.cfg), "skipped": self.skipped})

    def _validate(self) -> dict[str, float]:
        if not self.first:
            return {}
        self.ema.eval()
        figures, shown = task_codec.validate(self.ema, self.validation_set, self.fabric.device)
        self.logs.scalars(self.step, {f"validation/{k}": v for k, v in figures.items()})
        task_codec.write_samples(shown, self.ema, self.logs.samples, self.step)
        return figures

    def _save_state(self) -> None:
        if not self.first:
            return
        state.save(
            {
                "step": self.step, "skipped": self.skipped, "world_size": self.fabric.world_size,
                "seed": self.cfg.seed, "codec": self.codec.state_dict(), "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            self.out,
        )  # fmt: skip

    def _resume(self) -> None:
        saved = state.load(self.out)
        for key, now in (("world_size", self.fabric.world_size), ("seed", self.cfg.seed)):
            if saved[key] != now:
                raise ValueError(f"{self.out} was trained with {key}={saved[key]}; it cannot go on with {now}")
        registry.fill(self.codec, saved["codec"], self.out)
        registry.fill(self.ema, saved["ema"], self.out)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.skipped = saved["step"], saved["skipped"]

    def _stops(self) -> bool:
        """Whether any process was interrupted: all stop at the same step."""
        if self.fabric.world_size == 1:
            return self.interrupted
        return bool(self.fabric.all_reduce(torch.tensor(float(self.interrupted)), reduce_op="sum"))

    def _interrupt(self, number: int, _frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if os.getpid() != self.process:  # a data worker, which lives on until the step is done
            return
        self.logs.say(f"{signal.Signals(number).name}: finishing this step, then saving (again to quit at once)")


def _check(cfg: TrainConfig, out: Path) -> None:
    """Everything about the config that can be wrong without looking at the data."""
    if cfg.task != "codec":
        raise ValueError(f"task {cfg.task!r} is none of ('codec',)")
    if not cfg.codec.get("name"):
        raise ValueError("no codec chosen; codec=image/fsq or another of " + ", ".join(_trainable()))
    _check_numbers(cfg)
    for key, allowed in (
        ("precision", ("32-true", "bf16-mixed", "16-mixed")), ("accelerator", ("auto", "cpu", "cuda")),
    ):  # fmt: skip
        if getattr(cfg, key) not in allowed:
            raise ValueError(f"{key} {getattr(cfg, key)!r} is none of {allowed}")
    if cfg.precision == "16-mixed" and (cfg.accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError("precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")
    if cfg.accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator cuda is not there; auto takes what there is")
    if not cfg.resume and (out / state.NAME).exists():
        raise ValueError(f"{out} already holds a run; continue it with resume=true or choose another out=")
    out.mkdir(parents=True, exist_ok=True)


def _check_numbers(cfg: TrainConfig) -> None:
    """Ranges of whole numbers and of numbers, by key."""
    o = cfg.optimizer
    whole = {
        key: (getattr(cfg, key), 1) for key in ("steps", "batch_size", "log_every", "save_every", "validate_every")
    }
    whole |= {"workers": (cfg.workers, 0), "seed": (cfg.seed, 0), "optimizer.warmup": (o.warmup, 0)}
    whole |= {"stop_after": (cfg.stop_after, 1), "crop.size": (cfg.crop.size, 1)}
    for key, (value, least) in whole.items():
        if value is not None and not validate.whole(value, least, 2**62):
            raise ValueError(f"{key}={value!r} is no whole number from {least} on")
    if len(o.betas) != 2:
        raise ValueError(f"optimizer.betas={o.betas} are not two numbers")
    numbers = {"ema": (cfg.ema, 0, 1), "optimizer.lr": (o.lr, 0, 1), "optimizer.clip": (o.clip, 1e-9, 1e9)}
    numbers |= {"optimizer.weight_decay": (o.weight_decay, 0, 1), "optimizer.final": (o.final, 0, 1)}
    numbers |= {f"optimizer.betas[{i}]": (beta, 0, 0.99999) for i, beta in enumerate(o.betas)}
    for key, (value, low, high) in numbers.items():
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{key}={value!r} is not between {low:g} and {high:g}")


def _trainable() -> list[str]:
    return [name for name in codecs.names() if issubclass(registry.codec_class(name), codecs.LatentCodec)]


def _split(cfg: TrainConfig) -> tuple[data.Source, data.Source]:
    """The training set, and a validation set: the one named, or the last few items of the first."""
    if not cfg.data.get("name"):
        raise ValueError("no data chosen; data=folder data.path=… or another of " + ", ".join(data.names()))
    source = _open(cfg.data)
    if len(source) < 2:
        raise ValueError(f"{source.name} has {len(source)} items; training needs at least 2")
    if cfg.validation:
        return source, _open(cfg.validation)
    held = max(1, min(HELD_OUT, len(source) // 20))
    cut = len(source) - held
    return Subset(source, range(cut)), Subset(source, range(cut, len(source)))


def _open(node: dict[str, Any]) -> data.Source:
    return data.open_source(**{k: v for k, v in node.items() if k != "strict"})


def _fabric(cfg: TrainConfig) -> Any:
    """Devices, processes and precision through Lightning Fabric, launched."""
    from lightning_fabric import Fabric  # 3 s: not before the config is known to be good
    from lightning_fabric.plugins import MixedPrecision

    class Mixed(MixedPrecision):
        """Fabric would round the batch to bfloat16, the targets of the losses included."""

        def convert_input(self, data: Any) -> Any:
            return data

    gpu = cfg.accelerator != "cpu" and torch.cuda.is_available()
    if gpu:
        devices: int | str = "auto"
    else:  # under torchrun Fabric must be told the number of processes, or each trains alone
        devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    where = {"accelerator": cfg.accelerator if gpu else "cpu", "devices": devices}
    if cfg.precision.endswith("-mixed"):
        fabric = Fabric(**where, plugins=[Mixed(cfg.precision, "cuda" if gpu else "cpu")])
    else:
        fabric = Fabric(**where, precision=cfg.precision)
    fabric.launch()
    return fabric


def _seed(seed: int, step: int) -> None:
    """Every generator from (seed, step), so that a resumed run draws what the straight one drew."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    torch.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed)
