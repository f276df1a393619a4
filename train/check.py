"""Checks of a config before a run trains or writes. Every mistake is a ValueError in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenloom import data, own_code
from tokenloom.codecs import checkpoint
from tokenloom.codecs.storage import STORES
from tokenloom.data.sources.source import at_least

from . import loggers, machine, state
from .run_config import RunConfig, betas, number
from .tasks import all_tasks

FIXED = ("seed", "batch_size", "ema", "losses", "optimizer")
"""Keys that a resumed run must share, besides those of the tasks. `steps` may grow, and machines may change."""
WARMUP = 200
"""Default steps of the warm-up of a long run."""


def config(cfg: RunConfig) -> None:
    """Raise ValueError for mistakes that need neither model nor data to be found."""
    own_code.load(cfg.imports)
    tasks = all_tasks()
    task = tasks[cfg.task]
    _numbers(cfg)
    _machine(cfg)
    loggers.check(cfg.logger)
    task.check(cfg)
    if not cfg.data.get("name"):
        raise ValueError("no data chosen; data=folder data.path=… or another of " + ", ".join(data.names()))
    if cfg.validation is not None and not (isinstance(cfg.validation, Mapping) and cfg.validation.get("name")):
        raise ValueError(
            f"validation must be a data source such as {{name: folder, path: photos}}, got {cfg.validation!r}"
        )
    _folder(cfg.out, cfg.resume)


def _machine(cfg: RunConfig) -> None:
    """Check precision, devices, and the division of the batch among processes."""
    for key, allowed in (
        ("precision", ("auto", "32-true", "bf16-mixed", "16-mixed")), ("store", STORES),
        ("strategy", ("auto", "ddp", "fsdp")),
    ):  # fmt: skip
        if getattr(cfg, key) not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(allowed)}, got {getattr(cfg, key)!r}")
    gpus = machine.gpus(cfg)
    if cfg.precision == "16-mixed" and not gpus:
        raise ValueError("precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")
    local, machines = machine.processes()
    if cfg.strategy == "fsdp":
        _sharded(cfg, local * machines)
    if gpus and local > gpus:
        raise ValueError(f"each process needs its own GPU, got {local} processes and {gpus} GPU{'s' * (gpus > 1)}")
    world = local * machines
    if cfg.batch_size % (world * cfg.accumulate):
        among = f" among {world} processes" if world > 1 else ""
        into = f" into accumulate={cfg.accumulate} parts" if cfg.accumulate > 1 else ""
        raise ValueError(
            f"batch_size={cfg.batch_size} does not divide{among}{into}; use a multiple of {world * cfg.accumulate}"
        )


def _sharded(cfg: RunConfig, world: int) -> None:
    """Check that the model can be sharded over the processes."""
    tasks = all_tasks()
    if not tasks[cfg.task].shardable:
        possible = " or ".join(f"task={name}" for name, task in tasks.items() if task.shardable)
        raise ValueError(
            f"strategy fsdp is for {possible}, not task={cfg.task}, which needs the whole model in each process; "
            "use strategy=ddp"
        )
    if cfg.precision == "16-mixed":
        raise ValueError("strategy fsdp trains in bf16-mixed or 32-true, not in 16-mixed")
    if world == 1:
        raise ValueError(
            "strategy fsdp shards a model over several processes, and there is one; start them with "
            "torchrun --nproc-per-node N -m tokenloom train …"
        )


def _folder(name: str, resume: bool) -> None:
    """Check that the run may write to its folder."""
    if not name:
        raise ValueError("out must name the folder of the run, got an empty name")
    out = Path(name)
    if not resume:
        if state.exists(out):
            raise ValueError(f"{out} already holds a run; continue it with resume={out} or choose another out=")
        if held := [name for name in checkpoint.FILES if (out / name).exists()]:
            raise ValueError(f"{out} already holds a model ({held[0]}); choose another out=")
    above = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not above.is_dir():
        raise ValueError(f"out={out}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK):
        raise ValueError(f"out={out}: {above} is not writable")


def _numbers(cfg: RunConfig) -> None:
    """Check the ranges of integers and numbers, and set the default warm-up."""
    o = cfg.optimizer
    for key in ("steps", "batch_size", "accumulate", "log_every", "save_every", "validate_every"):
        at_least(key, getattr(cfg, key), 1)
    for key in ("max_skips", "workers", "seed"):
        at_least(key, getattr(cfg, key), 0)
    if o.warmup is not None and at_least("optimizer.warmup", o.warmup, 0) > cfg.steps and not cfg.resume:
        raise ValueError(
            f"optimizer.warmup must be at most steps={cfg.steps}, got {o.warmup}; optimizer.warmup=null fits the run"
        )
    if cfg.stop_after is not None:
        at_least("stop_after", cfg.stop_after, 1)
    betas("optimizer.betas", o.betas)
    for key in ("lr", "weight_decay", "final"):
        number(f"optimizer.{key}", getattr(o, key), 0, 1)
    number("optimizer.clip", o.clip, 1e-9, 1e9)
    number("ema", cfg.ema, 0, 1)


def recipe(cfg: RunConfig, **more: Any) -> dict[str, Any]:
    """Return the values that a resumed run must share: `more`, and the fixed keys of the config."""
    keys = [*FIXED, *(key for task in all_tasks().values() for key in (*task.architecture, *task.fixed))]
    values = asdict(cfg)
    return more | {key: values[key] for key in keys if key in values and key not in more}


def continuation(saved: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise ValueError unless the run in `out` with the recipe `saved` can be continued as `now`."""
    architectures = [key for task in all_tasks().values() for key in task.architecture]
    for key in architectures:
        before, after = saved.get(key, {}), now.get(key, {})
        if before.get("name") != after.get("name"):
            raise ValueError(f"{out} holds another architecture: {before}, not {after.get('name')}")
    before, after = _flatten(saved), _flatten(now)
    for key in after | before:
        if before.get(key) != after.get(key):
            other = key.split(".")[0] in architectures
            verb = "holds another architecture, trained" if other else "was trained"
            raise ValueError(f"{out} {verb} with {key}={before.get(key)}; it cannot go on with {after.get(key)}")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
