"""The training loop of all tasks: schedule, averaging, clipping, exact resume, logs, and a checkpoint at the end."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenloom import devices, own_code

from . import check, loggers, machine, state
from .average import WeightAverage
from .interrupts import Interrupts
from .logs import Logs, NoLogs
from .record import FINISHED, RunRecord, is_finished
from .run_config import RunConfig
from .tasks import all_tasks


def train(cfg: RunConfig) -> Path:
    """Train until `steps`, `stop_after` or a signal, whichever comes first.

    Args:
        cfg: A `TrainConfig`, or the config of one task.

    Returns:
        The folder of the run, which `codecs.load` or `models.load` reads.

    Raises:
        ValueError: The config is wrong (raised before the first step), or too many losses in a row are NaN or Inf.
        FileNotFoundError: A path does not exist.
    """
    run = Run(cfg)
    run.go()
    return run.out


WARMUP = 200
"""Steps of the warm-up of a long run."""


def learning_rate(step: int, cfg: RunConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine that ends at `final` of the peak."""
    o, warmup = cfg.optimizer, cfg.optimizer.warmup
    assert warmup is not None  # `check.config` sets the default
    if step < warmup:
        return o.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, cfg.steps - warmup)
    return o.lr * (o.final + (1 - o.final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


class Run:
    """One training run: built from a config, resumed if `resume` is set, and trained once by `go`."""

    def __init__(self, cfg: RunConfig) -> None:
        """Check everything, join the other processes, then create `out` and its logs."""
        check.config(cfg)
        saved = state.load(Path(cfg.out)) if cfg.resume else None
        self.cfg = cfg = _with_warmup(replace(cfg, precision=machine.mixed_precision(cfg)), saved)
        _seed(cfg.seed, 0)
        self.job = all_tasks()[cfg.task](cfg)
        self.model = self.job.model
        self.step = self.skipped = 0
        self.recipe = check.recipe(cfg, world_size=math.prod(machine.processes()), **self.job.recipe())
        if saved:
            self._start_from(saved)
        else:
            self.job.start()
        self.fabric = machine.launch(cfg)
        self.first = self.fabric.is_global_zero  # the process that writes
        self.out = Path(self.fabric.broadcast(cfg.out))  # the default is a time, which may differ by a second
        self.average = WeightAverage(self.model, cfg.ema, self.fabric, cfg.strategy == "fsdp", self.job.counted)
        if saved:
            self.job.fill(self.average.module, saved["ema"], self.out)
        self.average.place()
        self.adversary = self.job.adversary(self.fabric)
        self.module = self.fabric.setup_module(self.job.module(self.adversary))
        o = cfg.optimizer
        one_pass = cfg.strategy != "fsdp" and cfg.precision != "16-mixed"  # a loss scale needs clipping before the step
        fused = True if one_pass and self.fabric.device.type in ("cpu", "cuda") else None
        adamw = torch.optim.AdamW(
            self.module.parameters(), o.lr, tuple(o.betas), weight_decay=o.weight_decay, fused=fused
        )
        self.optimizer = self.fabric.setup_optimizers(adamw)
        if saved:
            self._restore(saved)
        self.finished = bool(saved) and self.step >= cfg.steps and is_finished(self.out)
        self.began = time.perf_counter()
        self.record, self.logs = None, NoLogs()
        if self.first and not self.finished:
            self.out.mkdir(parents=True, exist_ok=True)
            own_code.keep(cfg.imports, self.out)
            self.record = RunRecord(self.out, cfg, self.step)
            try:
                self.logs = Logs(self.out, self.step, cfg.steps, loggers.check(cfg.logger), self.record)
            except Exception:
                self.record.end(self.step, "failed", 0.0)
                raise
            self.record.write()  # with the ids that the loggers chose
        self.interrupts = Interrupts(self.logs.say)

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the run early."""
        return bool(self.interrupts.number)

    # -- the loop ---------------------------------------------------------------------------------

    def go(self) -> None:
        """Train from the current step to the end. Call it once. A run that is finished already stays as it is."""
        if self.finished:
            if self.first:
                print(f"{self.out} is finished at step {self.step}; steps=… trains it longer", file=sys.stderr)
            return
        status = "failed"
        try:
            with self.interrupts.handle():
                self.logs.say(f"{self.out}: {self.cfg.precision} on {devices.describe(self.fabric.device)}")
                self._train(min(self.cfg.steps, self.cfg.stop_after or self.cfg.steps))
                self._save_state()
                self._finish()
                self.fabric.barrier()
            status = FINISHED if self.step >= self.cfg.steps else "interrupted" if self.interrupted else "stopped"
        finally:
            self.logs.close()
            if self.record:
                self.record.end(self.step, status, time.perf_counter() - self.began)

    def _train(self, last: int) -> None:
        cfg = self.cfg
        consecutive = 0
        batches = self.job.batches(
            start_step=self.step, steps=last, rank=self.fabric.global_rank, world_size=self.fabric.world_size
        )
        for step, batch in batches:
            _seed(cfg.seed, step + 1)  # dropout, k-means and codebook revival depend on the step alone
            terms = self._update(step, batch.to(self.fabric.device))
            consecutive = 0 if terms else consecutive + 1
            if consecutive > cfg.max_skips:
                raise ValueError(
                    f"the loss was NaN or Inf on {consecutive} steps in a row, the last one {step}; "
                    f"a lower optimizer.lr may help ({self.skipped} steps skipped in all, max_skips={cfg.max_skips})"
                )
            self.step = step + 1
            self.logs.advance(len(batch) * self.fabric.world_size)
            if self.step % cfg.log_every == 0 and terms:
                self._log(terms)
            if self.step % cfg.validate_every == 0 and self.step < cfg.steps:
                self._validate()
            if self.step % cfg.save_every == 0:
                self._save_state()
            if self.interrupts.stop(self.fabric):
                break

    def _finish(self) -> None:
        """Save the model, then validate it, because a second signal may end the validation."""
        cfg = self.cfg
        model = self.average.collect()
        if model is None:
            return
        if self.step >= cfg.steps:
            self.job.complete(model, self.fabric.device)
        self.job.save(model, self.out, {"steps": self.step, "of": cfg.steps, **self.job.trained})
        metrics = self._evaluate(model)
        skipped = f" ({self.skipped} skipped for NaN or Inf)" if self.skipped else ""
        shown = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items() if "/" not in k)
        self.logs.say(f"{self.out}: {self.step} steps{skipped}, {shown}")

    def _update(self, step: int, batch: Tensor) -> dict[str, Tensor] | None:
        """Make one optimizer step over `accumulate` parts of the batch. Returns None for a skipped step.

        A step is skipped if the loss or its gradient is NaN or Inf. Only the gradient is tested, because it is the
        same in all processes; a loss that is not finite turns it into NaN.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.cfg)
        if self.adversary:
            self.adversary.begin(step, learning_rate(step, self.cfg) / (self.cfg.optimizer.lr or 1))
        self.module.train()
        parts = batch.chunk(self.cfg.accumulate)
        sums: dict[str, Tensor] = {}
        for i, part in enumerate(parts, 1):
            with self.fabric.no_backward_sync(self.module, enabled=i < len(parts)):
                total, terms = self.module(part)
                poison = total.detach() * 0 + 1  # 1, or NaN
                self.fabric.backward(total * poison / len(parts))
            for name, value in {"loss": total.detach(), **terms}.items():
                sums[name] = sums.get(name, 0) + value / len(parts)
        norm = self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=self.cfg.optimizer.clip, error_if_nonfinite=False
        )
        norm = state.collect(norm)
        if not torch.isfinite(norm):
            return self._skip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model, step)
        if self.adversary:
            sums |= self.adversary.update()
        return {**sums, "gradient_norm": norm}

    def _skip(self) -> None:
        """Skip a step, and undo the changes of its forward pass to codebooks."""
        self.skipped += 1
        if self.cfg.precision == "16-mixed":
            self.optimizer.step()  # skips the step by itself, and lowers the loss scale
        self.optimizer.zero_grad()
        self.average.restore_buffers(self.model)

    # -- logs and state ---------------------------------------------------------------------------

    def _log(self, terms: dict[str, Tensor]) -> None:
        means = self.fabric.all_reduce(torch.stack(list(terms.values())), reduce_op="mean")
        values = dict(zip(terms, means.tolist(), strict=True))
        values["items_per_second"] = self.logs.rate()
        self.logs.scalars(self.step, values, bar=True)
        self.logs.scalars(self.step, {"lr": learning_rate(self.step - 1, self.cfg), "skipped": self.skipped})

    def _validate(self) -> None:
        if (model := self.average.collect()) is not None:
            self._evaluate(model)
        self.average.release()

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        metrics = self.job.validate(model, self.fabric.device, self.logs.samples, self.step)
        self.logs.scalars(self.step, {f"validation/{k}": v for k, v in metrics.items()})
        self.logs.show_samples(self.step)
        return metrics

    def _save_state(self) -> None:
        tensors = {
            "model": self.model.state_dict(), "ema": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **({"adversary": self.adversary.state_dict()} if self.adversary else {}),
        }  # fmt: skip
        tensors = state.collect(tensors, keep=self.first)
        if not self.first:
            return
        state.save(
            {
                "step": self.step, "skipped": self.skipped, "world_size": self.fabric.world_size,
                "recipe": self.recipe, "precision": self.fabric.strategy.precision.state_dict(), **tensors,
            },
            self.out,
        )  # fmt: skip

    def _start_from(self, saved: dict[str, Any]) -> None:
        """Check that a saved state belongs to this run, and load its weights into the model."""
        out = Path(self.cfg.out)
        if "recipe" not in saved or "model" not in saved:
            raise ValueError(f"{out / state.NAME} was written by another version of tokenloom; choose another out=")
        check.continuation(saved["recipe"], self.recipe, out)
        self.job.fill(self.model, saved["model"], out)
        if saved["step"] > self.cfg.steps:
            raise ValueError(f"{out} is already at step {saved['step']}, beyond steps={self.cfg.steps}")

    def _restore(self, saved: dict[str, Any]) -> None:
        state.fill_optimizer(self.optimizer, saved["optimizer"])
        self.fabric.strategy.precision.load_state_dict(saved["precision"])  # holds the loss scale of float16
        self.step, self.skipped = saved["step"], saved["skipped"]
        if self.adversary:
            self.adversary.load_state_dict(saved["adversary"], self.out)


def _with_warmup(cfg: RunConfig, saved: Mapping[str, Any] | None) -> RunConfig:
    """Return a config whose warm-up is a number: that of the saved run, else 200 steps, in a short run a tenth."""
    if cfg.optimizer.warmup is not None:
        return cfg
    optimizer = (saved or {}).get("recipe", {}).get("optimizer", {})
    warmup = optimizer.get("warmup", min(WARMUP, max(1, cfg.steps // 10)))
    return replace(cfg, optimizer=replace(cfg.optimizer, warmup=warmup))


def _seed(seed: int, step: int) -> None:
    """Seed every generator from (seed, step), so that a resumed run draws the same numbers."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    torch.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed)
