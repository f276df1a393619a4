"""One loop for every task: schedule, EMA, clipping, exact resume, logs, and a checkpoint at the end."""

from __future__ import annotations

import copy
import math
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import check, state
from .config import TrainConfig
from .job import Job
from .logs import Logs, NoLogs
from .tasks.codec import CodecJob
from .tasks.decoder import DecoderJob
from .tasks.transformer import TransformerJob

JOBS: dict[str, type[Job]] = {"codec": CodecJob, "transformer": TransformerJob, "decoder": DecoderJob}

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
        _seed(cfg.seed, 0)
        self.job = JOBS[cfg.task](cfg)
        self.model = self.job.model
        self.step = self.skipped = 0
        self.recipe = check.recipe(cfg, world_size=math.prod(check.processes()), **self.job.recipe())
        saved = self._saved() if cfg.resume else None
        if not saved:
            self.job.start()
        self.fabric = _fabric(cfg)
        self.first = self.fabric.is_global_zero  # of several processes, the one that writes
        self.out = Path(self.fabric.broadcast(cfg.out))  # the default is the time of day, which may differ by a second
        self.ema = self._averaging(saved)
        self.adversary = self.job.adversary(self.fabric)
        self.task = self.fabric.setup_module(self.job.module(self.adversary))
        self.optimizer = self.fabric.setup_optimizers(self._optimizer())
        if saved:
            self._resume(saved)
        if self.first:
            self.out.mkdir(parents=True, exist_ok=True)
        self.logs = Logs(self.out, self.step, cfg.steps) if self.first else NoLogs()
        self.interrupted = 0
        """Number of the signal that ended the run early; 0: none did."""
        self.process = os.getpid()

    def _averaging(self, saved: dict[str, Any] | None) -> nn.Module:
        """The average that runs along. Where it is sharded, the first process has `self.one` to fill with it."""
        ema = copy.deepcopy(self.model).requires_grad_(False)
        if saved:
            self.job.fill(ema, saved["ema"], self.out)
        sharded = self.cfg.strategy == "fsdp"
        self.one = copy.deepcopy(ema) if sharded and self.first else None
        if not sharded:
            return ema.to(self.fabric.device)
        return state.shard(ema, self.fabric.strategy.device_mesh["data_parallel"])

    def _optimizer(self) -> torch.optim.Optimizer:
        """Of the parameters as the strategy has left them."""
        o = self.cfg.optimizer
        return torch.optim.AdamW(self.task.parameters(), o.lr, tuple(o.betas), weight_decay=o.weight_decay)

    # -- the loop ---------------------------------------------------------------------------------

    def go(self) -> None:
        """Train from where the run stands to its end; call it once."""
        cfg = self.cfg
        last = min(cfg.steps, cfg.stop_after or cfg.steps)
        previous = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._train(last)
            self._save_state()
            self._finish()
            self.fabric.barrier()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.logs.close()

    def _train(self, last: int) -> None:
        cfg = self.cfg
        consecutive = 0
        batches = self.job.batches(
            start_step=self.step, steps=last, rank=self.fabric.global_rank, world_size=self.fabric.world_size
        )
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
        model = self._averaged()
        if not self.first:
            return
        if self.step >= cfg.steps:
            self.job.complete(model, self.fabric.device)
        self.job.save(model, self.out, {"steps": self.step, "of": cfg.steps, **self.job.trained})
        figures = self._figures(model)
        left_out = f" ({self.skipped} left out for NaN or Inf)" if self.skipped else ""
        said = ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if "/" not in k)
        self.logs.say(f"{self.out}: {self.step} steps{left_out}, {said}")

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
        norm = state.whole(norm)
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
        for mine, before in zip(self.model.buffers(), self.ema.buffers(), strict=True):
            mine.copy_(before)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """EMA of the weights, with a warm-up; buffers (codebooks) are taken as they are."""
        decay = min(self.cfg.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(state.local(self.ema.parameters()), state.local(self.model.parameters()), 1 - decay)
        for (name, mine), theirs in zip(self.ema.named_buffers(), self.model.buffers(), strict=True):
            if name not in self.job.counted:
                mine.copy_(theirs)

    # -- around it --------------------------------------------------------------------------------

    def _log(self, terms: dict[str, Tensor]) -> None:
        means = self.fabric.all_reduce(torch.stack(list(terms.values())), reduce_op="mean")
        values = dict(zip(terms, means.tolist(), strict=True))
        values["items_per_second"] = self.logs.rate()
        self.logs.scalars(self.step, values, bar=True)
        self.logs.scalars(self.step, {"lr": learning_rate(self.step - 1, self.cfg), "skipped": self.skipped})

    def _validate(self) -> None:
        model = self._averaged()
        if self.first:
            self._figures(model)
        if self.one is not None:
            self.one.cpu()  # until it is needed again

    def _figures(self, model: nn.Module) -> dict[str, float]:
        figures = self.job.validate(model, self.fabric.device, self.logs.samples, self.step)
        self.logs.scalars(self.step, {f"validation/{k}": v for k, v in figures.items()})
        return figures

    def _averaged(self) -> nn.Module | None:
        """The average in one piece, in eval mode, on the process that writes; all take part."""
        if self.cfg.strategy != "fsdp":
            return self.ema.eval() if self.first else None
        tensors = state.whole(self.ema.state_dict(), keep=self.first)
        if not self.first:
            return None
        self.one.load_state_dict(tensors)
        return self.one.to(self.fabric.device).eval()

    def _save_state(self) -> None:
        tensors = {
            "model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict(),
            **({"adversary": self.adversary.state_dict()} if self.adversary else {}),
        }  # fmt: skip
        tensors = state.whole(tensors, keep=self.first)
        if not self.first:
            return
        state.save(
            {
                "step": self.step, "skipped": self.skipped, "world_size": self.fabric.world_size,
                "recipe": self.recipe, "precision": self.fabric.strategy.precision.state_dict(), **tensors,
            },
            self.out,
        )  # fmt: skip

    def _saved(self) -> dict[str, Any]:
        """The state to go on from, known to be of this very run."""
        out = Path(self.cfg.out)
        saved = state.load(out)
        if "recipe" not in saved or "model" not in saved:
            raise ValueError(f"{out / state.NAME} was written by another version of tokenloom; choose another out=")
        check.continuation(saved["recipe"], self.recipe, out)
        self.job.fill(self.model, saved["model"], out)
        if saved["step"] > self.cfg.steps:
            raise ValueError(f"{out} is at step {saved['step']} already; steps={self.cfg.steps} is behind it")
        return saved

    def _resume(self, saved: dict[str, Any]) -> None:
        state.fill_optimizer(self.optimizer, saved["optimizer"])
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


def _fabric(cfg: TrainConfig) -> Any:
    """Devices, processes and precision through Lightning Fabric, launched."""
    from lightning_fabric import Fabric  # 3 s: not before the config is known to be good
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.strategies import ModelParallelStrategy

    class Mixed(MixedPrecision):
        """Fabric would round the batch to bfloat16, the targets of the losses included."""

        def convert_input(self, data: Any) -> Any:
            return data

    gpu = check.on_gpu(cfg)
    local, machines = check.processes()  # without these numbers each process of torchrun would train alone on a CPU
    strategy = cfg.strategy
    if strategy == "fsdp":  # Fabric's strategy of this name is PyTorch's first generation of it
        strategy = ModelParallelStrategy(
            lambda task, mesh: state.shard(task, mesh["data_parallel"]), local * machines, tensor_parallel_size=1
        )
    where = {"accelerator": "cuda" if gpu else "cpu", "devices": local, "num_nodes": machines, "strategy": strategy}
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
