"""One loop for every task: schedule, EMA, clipping, exact resume, logs, and a checkpoint at the end."""

from __future__ import annotations

import copy
import math
import os
import random
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenloom import codecs, data
from tokenloom.codecs import Modality, registry
from tokenloom.data.loader import Augment, crops
from tokenloom.data.subset import Subset

from . import adversary, check, state
from . import codec as task_codec
from .config import TrainConfig
from .logs import Logs, NoLogs
from .losses import LOSSES, networks, weights

DEFAULT_CROP = {Modality.IMAGE: 128, Modality.AUDIO: 1}
"""Pixels, seconds."""
HELD_OUT = 16
AGAIN = 3
"""Seconds after which a second signal quits at once; before, it is torchrun passing the first one on."""


def train(cfg: TrainConfig) -> Path:
    """Run a training to its end (or `stop_after`, or a signal); the folder that `codecs.load` reads.

    Everything that a user can get wrong raises ValueError or FileNotFoundError before the first step.
    """
    run = Run(cfg)
    run.go()
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
        """Check everything, join the other processes, then make `out` and its logs."""
        self.cfg = cfg
        check.config(cfg)
        adversary.check(cfg.adversary)
        _seed(cfg.seed, 0)
        arguments = dict(cfg.codec)
        self.codec = codecs.build(arguments.pop("name"), **arguments)
        if not isinstance(self.codec, codecs.LatentCodec):
            raise ValueError(f"{self.codec.name} has nothing to train; it is ready to use")
        self.weights = weights(cfg.losses, self.codec.spec.modality, self.codec.codes_weight)
        self.losses = networks(self.weights, cfg.lpips_weights)
        self.train_set, self.validation_set = _split(cfg)
        self.step = self.skipped = 0
        self._check_data()
        self.recipe = check.recipe(
            cfg,
            world_size=math.prod(check.processes()),
            losses=self.weights,
            data={"name": cfg.data["name"], "items": len(self.train_set)},
            **adversary.recipe(cfg),
        )
        saved = self._saved() if cfg.resume else None
        if not saved and self.codec.starts_on:  # the same crops in all processes
            self.codec.start(next(iter(self._crops(batch_size=self.codec.starts_on, steps=1)))[1])
        self.fabric = _fabric(cfg)
        self.first = self.fabric.is_global_zero  # of several processes, the one that writes
        self.out = Path(self.fabric.broadcast(cfg.out))  # the default is the time of day, which may differ by a second
        self.ema = copy.deepcopy(self.codec).requires_grad_(False).to(self.fabric.device)
        self.adversary = adversary.build(cfg, self.codec, self.fabric, self.crop_size)
        task = task_codec.CodecTask(self.codec, self.weights, self.losses, self.adversary)
        optimizer = torch.optim.AdamW(
            task.parameters(), cfg.optimizer.lr, tuple(cfg.optimizer.betas), weight_decay=cfg.optimizer.weight_decay
        )
        self.task, self.optimizer = self.fabric.setup(task, optimizer)
        if saved:
            self._resume(saved)
        if self.first:
            self.out.mkdir(parents=True, exist_ok=True)
        self.logs = Logs(self.out, self.step, cfg.steps) if self.first else NoLogs()
        self.interrupted = 0
        """Number of the signal that ended the run early; 0: none did."""
        self.process = os.getpid()

    # -- the loop ---------------------------------------------------------------------------------

    def go(self) -> None:
        """Train from where the run stands to its end; call it once."""
        cfg = self.cfg
        last = min(cfg.steps, cfg.stop_after or cfg.steps)
        previous = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._train(last)
            self._save_state()
            if self.first:
                self._finish()
            self.fabric.barrier()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.logs.close()

    def _train(self, last: int) -> None:
        cfg = self.cfg
        consecutive = 0
        batches = self._crops(
            batch_size=cfg.batch_size, start_step=self.step, steps=last, workers=cfg.workers,
            rank=self.fabric.global_rank, world_size=self.fabric.world_size,
        )  # fmt: skip
        for step, batch in batches:
            _seed(cfg.seed, step + 1)  # dropout, k-means and revival depend on the step alone
            terms = self._update(step, batch.to(self.fabric.device))
            consecutive = 0 if terms else consecutive + 1
            if consecutive > cfg.max_skips:
                raise ValueError(
                    f"the loss was NaN or Inf on {consecutive} steps in a row, the last one {step}; "
                    f"a lower optimizer.lr may help ({self.skipped} steps left out in all, max_skips={cfg.max_skips})"
                )
            self.step = step + 1
            self.logs.advance(self.step, len(batch) * self.fabric.world_size)
            if self.step % cfg.log_every == 0 and terms:
                self._log(terms)
            if self.step % cfg.validate_every == 0 and self.step < cfg.steps:
                self._validate()
            if self.step % cfg.save_every == 0:
                self._save_state()
            if self._stops():
                break

    def _finish(self) -> None:
        """The model first: a second interruption may end the validation."""
        cfg = self.cfg
        self.ema.eval()
        if self.step >= cfg.steps:
            task_codec.count_codes(self.ema, self.train_set, self.fabric.device)
        trained = {"steps": self.step, "of": cfg.steps, "losses": self.weights, **adversary.recipe(cfg)}
        registry.save(self.ema, self.out, store=cfg.store, trained=trained)
        figures = self._validate()
        left_out = f" ({self.skipped} left out for NaN or Inf)" if self.skipped else ""
        said = ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if "/" not in k)
        self.logs.say(f"{self.out}: {self.step} steps{left_out}, {said}")

    @property
    def crop_size(self) -> int:
        """Pixels of a side, or samples."""
        return self.cfg.crop.size or DEFAULT_CROP[self.codec.spec.modality] * (self.codec.spec.sample_rate or 1)

    def _crops(self, **which: Any) -> Any:
        cfg, spec = self.cfg, self.codec.spec
        audio = spec.modality is Modality.AUDIO
        return crops(
            self.train_set, size=self.crop_size,
            seed=cfg.seed, strict=bool(cfg.data.get("strict", False)),
            sample_rate=spec.sample_rate, channels=spec.channels if audio else None,
            augment=Augment(cfg.crop.flip, cfg.crop.scale, cfg.crop.pad, tuple(cfg.crop.gain_db)), **which,
        )  # fmt: skip

    def _check_data(self) -> None:
        """One crop of the data, through every loss: wrong modalities, sizes and options show before a run has begun."""
        check.crop(self.crop_size, self.codec.spec.modality)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken items are told of when they are trained on
            _, crop = next(iter(self._crops(batch_size=1, steps=1)))
        for name in self.weights:
            if loss := (LOSSES | self.losses).get(name):
                loss(crop, crop)
        modality, item = self.codec.spec.modality, next(self.validation_set.items())
        if item.modality is not modality:
            raise ValueError(f"validation: {item.key} is {item.modality}, the codec is for {modality}")

    def _update(self, step: int, batch: Tensor) -> dict[str, Tensor] | None:
        """One optimizer step over `accumulate` parts of the batch; None where it was left out.

        It is left out where the loss or its gradient is NaN or Inf. The gradient decides, since it is
        the same in all processes; a loss that is not finite makes it so.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.cfg)
        if self.adversary:
            self.adversary.begin(step, learning_rate(step, self.cfg) / (self.cfg.optimizer.lr or 1))
        self.task.train()
        parts = batch.chunk(self.cfg.accumulate)
        sums: dict[str, Tensor] = {}
        for i, part in enumerate(parts, 1):
            with self.fabric.no_backward_sync(self.task, enabled=i < len(parts)):
                total, terms = self.task(part)
                poison = total.detach() * 0 + 1  # 1, or NaN
                self.fabric.backward(total * poison / len(parts))
            for name, value in {"loss": total.detach(), **terms}.items():
                sums[name] = sums.get(name, 0) + value / len(parts)
        norm = self.fabric.clip_gradients(
            self.task, self.optimizer, max_norm=self.cfg.optimizer.clip, error_if_nonfinite=False
        )
        if not torch.isfinite(norm):
            return self._skip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._average(step)
        if self.adversary:
            sums |= self.adversary.update()
        return {**sums, "gradient_norm": norm}

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
        means = self.fabric.all_reduce(torch.stack(list(terms.values())), reduce_op="mean")
        values = dict(zip(terms, means.tolist(), strict=True))
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
                "recipe": self.recipe, "codec": self.codec.state_dict(), "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(), "precision": self.fabric.strategy.precision.state_dict(),
                **({"adversary": self.adversary.state_dict()} if self.adversary else {}),
            },
            self.out,
        )  # fmt: skip

    def _saved(self) -> dict[str, Any]:
        """The state to go on from, known to be of this very run."""
        out = Path(self.cfg.out)
        saved = state.load(out)
        if "recipe" not in saved:
            raise ValueError(f"{out / state.NAME} was written by another version of tokenloom; choose another out=")
        check.continuation(saved["recipe"], self.recipe, out)
        registry.fill(self.codec, saved["codec"], out)
        if saved["step"] > self.cfg.steps:
            raise ValueError(f"{out} is at step {saved['step']} already; steps={self.cfg.steps} is behind it")
        return saved

    def _resume(self, saved: dict[str, Any]) -> None:
        registry.fill(self.ema, saved["ema"], self.out)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.fabric.strategy.precision.load_state_dict(saved["precision"])  # the scale of fp16 losses
        self.step, self.skipped = saved["step"], saved["skipped"]
        if self.adversary:
            self.adversary.load_state_dict(saved["adversary"], self.out)

    def _stops(self) -> bool:
        """Whether any process was interrupted: all stop at the same step."""
        if self.fabric.world_size > 1:
            first = self.fabric.all_reduce(torch.tensor(self.interrupted, device=self.fabric.device), reduce_op="max")
            if first and not self.interrupted:
                self.interrupted, self.interrupted_at = int(first), time.monotonic()
        return bool(self.interrupted)

    def _interrupt(self, number: int, _frame: Any) -> None:
        if self.interrupted:
            if time.monotonic() > self.interrupted_at + AGAIN:
                raise KeyboardInterrupt
            return
        self.interrupted, self.interrupted_at = number, time.monotonic()
        if os.getpid() != self.process:  # a data worker, which lives on until the step is done
            return
        self.logs.say(f"{signal.Signals(number).name}: finishing this step, then saving (again to quit at once)")


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

    gpu = check.on_gpu(cfg)
    local, machines = check.processes()  # without these numbers each process of torchrun would train alone on a CPU
    where = {"accelerator": "cuda" if gpu else "cpu", "devices": local, "num_nodes": machines}
    if cfg.precision.endswith("-mixed"):
        fabric = Fabric(**where, plugins=[Mixed(cfg.precision, "cuda" if gpu else "cpu")])
    else:
        fabric = Fabric(**where, precision=cfg.precision)
    fabric.launch()
    if fabric.world_size != local * machines:
        raise ValueError(f"{fabric.world_size} processes train together, {local * machines} were started")
    return fabric


def _seed(seed: int, step: int) -> None:
    """Every generator from (seed, step), so that a resumed run draws what the straight one drew."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    torch.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed)
