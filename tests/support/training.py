"""Configurations and logs of short training runs."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from support.codecs import TINY
from tokenloom.train.config import CropConfig, OptimizerConfig, TrainConfig

SCENES = {"name": "scenes", "count": 24, "size": 40}
PHRASES = {"name": "phrases", "count": 4, "seconds": 1.0, "sample_rate": 8000}


def config(out: Path, name: str = "image/fsq", **changes) -> TrainConfig:
    """Return the configuration of 40 steps of a tiny codec on generated data, with all random augmentation."""
    audio = name.startswith("audio/")
    defaults = {
        "codec": {"name": name, **TINY.get(name, {})},
        "data": dict(PHRASES if audio else SCENES),
        "losses": {"l1": 1.0, "stft": 0.1, "quantizer": 1.0} if audio else {"l1": 1.0, "l2": 1.0, "quantizer": 0.1},
        "optimizer": OptimizerConfig(lr=3e-3, warmup=min(5, max(1, changes.get("steps", 40)))),
        "crop": CropConfig(size=1024 if audio else 32, scale=0.8),
        "steps": 40, "batch_size": 4, "log_every": 1, "save_every": 1000, "validate_every": 1000,
        "device": "cpu", "out": str(out),
    }  # fmt: skip
    return TrainConfig(**(defaults | changes))


def log(out: Path) -> dict[tuple[int, str], float]:
    rows = list(csv.DictReader((out / "log.csv").open()))
    return {(int(r["step"]), r["name"]): float(r["value"]) for r in rows}


def losses_of(out: Path) -> list[float]:
    return [value for (_, name), value in sorted(log(out).items()) if name == "loss"]


def same(a, b) -> bool:
    """Return whether nested dicts and lists of tensors are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
