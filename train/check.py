"""What a person can get wrong about a run, found before anything is trained or written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tokenloom import codecs, data
from tokenloom.codecs import Modality, registry, validate
from tokenloom.codecs.storage import STORES

from . import state
from .config import TrainConfig

MAX_CROP = {Modality.IMAGE: 2**12, Modality.AUDIO: 2**24}
"""Pixels of a side, samples."""
TASKS = ("codec", "transformer", "decoder")
STRATEGIES = ("auto", "ddp", "fsdp")
FIXED = ("seed", "batch_size", "ema", "codec", "losses", "optimizer", "crop", "omni", "decoder")
"""Keys that a resumed run has to share with the one it continues; steps may grow, machines may change."""


def config(cfg: TrainConfig) -> None:
    """Everything that can be wrong without looking at the codec or the data; ValueError in one line."""
    if cfg.task not in TASKS:
        raise ValueError(f"task {cfg.task!r} is none of {TASKS}")
    _numbers(cfg)
    _machine(cfg)
    if cfg.task == "codec" and not cfg.codec.get("name"):
        raise ValueError("no codec chosen; codec=image/fsq or another of " + ", ".join(_trainable()))
    if cfg.task == "decoder" and not cfg.decoder.get("codec"):
        raise ValueError("no codec chosen; decoder=small decoder.codec=FOLDER or one of " + ", ".join(codecs.shipped()))
    if not cfg.data.get("name"):
        raise ValueError("no data chosen; data=folder data.path=… or another of " + ", ".join(data.names()))
    if cfg.validation is not None and not (isinstance(cfg.validation, Mapping) and cfg.validation.get("name")):
        raise ValueError(f"validation={cfg.validation!r} is no data source, such as {{name: folder, path: photos}}")
    _folder(cfg.out, cfg.resume)


def _machine(cfg: TrainConfig) -> None:
    """Precision, devices, and how the batch divides among processes."""
    for key, allowed in (
        ("precision", ("32-true", "bf16-mixed", "16-mixed")), ("accelerator", ("auto", "cpu", "cuda")),
        ("store", STORES), ("strategy", STRATEGIES),
    ):  # fmt: skip
        if getattr(cfg, key) not in allowed:
            raise ValueError(f"{key} {getattr(cfg, key)!r} is none of {allowed}")
    if cfg.precision == "16-mixed" and not on_gpu(cfg):
        raise ValueError("precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")
    if cfg.accelerator == "cuda" and not gpus():
        raise ValueError("accelerator cuda is not there; auto takes what there is")
    local, machines = processes()
    if cfg.strategy == "fsdp":
        _sharded(cfg, local * machines)
    if on_gpu(cfg) and local > gpus():
        raise ValueError(f"{local} processes on a machine with {gpus()} GPUs; each needs its own")
    world = local * machines
    if cfg.batch_size % (world * cfg.accumulate):
        among = f" among {world} processes" if world > 1 else ""
        into = f" into accumulate={cfg.accumulate} parts" if cfg.accumulate > 1 else ""
        raise ValueError(
            f"batch_size={cfg.batch_size} does not divide{among}{into}; take a multiple of {world * cfg.accumulate}"
        )


def _sharded(cfg: TrainConfig, world: int) -> None:
    """Whether a run can be spread over the processes in parts."""
    if cfg.task != "transformer":
        raise ValueError(
            f"strategy fsdp is for task=transformer, not task={cfg.task}: codebooks and adversaries need the whole "
            "model in each process; take strategy=ddp"
        )
    if cfg.precision == "16-mixed":
        raise ValueError("strategy fsdp trains in bf16-mixed or 32-true, not in 16-mixed")
    if world == 1:
        raise ValueError(
            "strategy fsdp spreads a model over several processes, and there is one; start them with "
            "torchrun --nproc-per-node N -m tokenloom train …"
        )


def _folder(name: str, resume: bool) -> None:
    """Whether a run may write to this folder."""
    if not name:
        raise ValueError("out is empty; it names the folder of the run")
    out = Path(name)
    if not resume and (out / state.NAME).exists():
        raise ValueError(f"{out} already holds a run; continue it with resume=true or choose another out=")
    above = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not above.is_dir():
        raise ValueError(f"out={out}: {above} is a file, no folder")
    if not os.access(above, os.W_OK):
        raise ValueError(f"out={out}: {above} cannot be written to")


def gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def on_gpu(cfg: TrainConfig) -> bool:
    return cfg.accelerator != "cpu" and gpus() > 0


def processes() -> tuple[int, int]:
    """(processes on this machine, machines), as torchrun says it in the environment; (1, 1) without torchrun."""
    given = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK")}
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        if given["WORLD_SIZE"] not in ("", "1"):
            raise ValueError(
                f"WORLD_SIZE={given['WORLD_SIZE']} without torchrun: each process would train alone; start them with "
                "torchrun --nproc-per-node N -m tokenloom train …"
            )
        return 1, 1
    said = ", ".join(f"{name}={value or 'nothing'}" for name, value in given.items())
    if not all(value.isdecimal() for value in given.values()):
        raise ValueError(f"torchrun's environment makes no sense: {said}")
    world, local, rank, local_rank = map(int, given.values())
    if not (0 < local <= world and world % local == 0 and rank < world and local_rank < local):
        raise ValueError(f"{said} do not fit together; wanted LOCAL_WORLD_SIZE processes on each machine")
    return local, world // local


def _numbers(cfg: TrainConfig) -> None:
    """Ranges of whole numbers and of numbers, by key."""
    o = cfg.optimizer
    whole = {
        key: (getattr(cfg, key), 1)
        for key in ("steps", "batch_size", "accumulate", "log_every", "save_every", "validate_every")
    }
    whole |= {
        "max_skips": (cfg.max_skips, 0),
        "workers": (cfg.workers, 0),
        "seed": (cfg.seed, 0),
        "optimizer.warmup": (o.warmup, 0),
    }
    whole |= {"stop_after": (cfg.stop_after, 1), "crop.size": (cfg.crop.size, 1)}
    for key, (value, least) in whole.items():
        if value is None and key in ("stop_after", "crop.size"):
            continue
        if not validate.is_integer(value, least, 2**62):
            raise ValueError(f"{key}={value!r} is no whole number from {least} on")
    if len(o.betas) != 2:
        raise ValueError(f"optimizer.betas={o.betas} are not two numbers")
    numbers = {"ema": (cfg.ema, 0, 1), "optimizer.lr": (o.lr, 0, 1), "optimizer.clip": (o.clip, 1e-9, 1e9)}
    numbers |= {"optimizer.weight_decay": (o.weight_decay, 0, 1), "optimizer.final": (o.final, 0, 1)}
    numbers |= {f"optimizer.betas[{i}]": (beta, 0, 0.99999) for i, beta in enumerate(o.betas)}
    for key, (value, low, high) in numbers.items():
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{key}={value!r} is not between {low:g} and {high:g}")


def crop(size: int, modality: Modality) -> None:
    """Whether crops of this size can be held; ValueError in one line."""
    if size > MAX_CROP[modality]:
        unit = "pixels" if modality is Modality.IMAGE else "samples"
        raise ValueError(f"crop.size={size} is more than {MAX_CROP[modality]} {unit}")


def continuation(saved: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Whether the run that left `saved` in `out` is the one that goes on now; ValueError names the first difference."""
    if saved.get("codec", {}).get("name") != now["codec"].get("name"):
        raise ValueError(f"{out} holds another architecture: {saved.get('codec')}, not {now['codec'].get('name')}")
    before, after = _flat(saved), _flat(now)
    for key in after | before:
        if before.get(key) != after.get(key):
            another = key.startswith(("codec.", "omni.", "decoder."))
            what = "holds another architecture, trained" if another else "was trained"
            raise ValueError(f"{out} {what} with {key}={before.get(key)}; it cannot go on with {after.get(key)}")


def recipe(cfg: TrainConfig, **more: Any) -> dict[str, Any]:
    """What `continuation` compares, plain values only: `more`, and the fixed keys of the config."""
    whole = asdict(cfg)
    return more | {key: whole[key] for key in FIXED if key not in more}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def _trainable() -> list[str]:
    return [name for name in codecs.names() if issubclass(registry.codec_class(name), codecs.LatentCodec)]
