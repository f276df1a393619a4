"""The typed keys of a training run: what `conf/train.yaml` may hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class OptimizerConfig:
    lr: float = 9e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.01
    warmup: int = 200
    final: float = 0.02
    clip: float = 1.0


@dataclass
class CropConfig:
    size: int | None = None
    scale: float = 1.0
    flip: bool = True
    pad: str = "reflect"
    margin: int = 0
    gain_db: list[float] = field(default_factory=lambda: [-12.0, 6.0])


@dataclass
class AdversaryConfig:
    weight: float = 0.0
    start: int = 0
    updates: float = 1.0
    lr: float = 2e-4
    betas: list[float] = field(default_factory=lambda: [0.5, 0.9])
    filters: int | None = None
    regularizer: str = "lecam"
    regularizer_weight: float | None = None
    feature_matching: float | None = None
    balance: str = "none"


@dataclass
class TrainConfig:
    """See conf/train.yaml for what each key means."""

    task: str = "codec"
    codec: dict[str, Any] = field(default_factory=dict)
    omni: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] = field(default_factory=dict)
    tokens: str = "~/.cache/tokenloom/tokens"
    data: dict[str, Any] = field(default_factory=dict)
    validation: Any = None  # a mapping; typed as one, OmegaConf could not fill it from the command line
    losses: dict[str, float | None] = field(default_factory=dict)
    lpips_weights: str | None = None
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    seed: int = 0
    steps: int = 10000
    stop_after: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    max_skips: int = 20
    ema: float = 0.999
    precision: str = "bf16-mixed"
    accelerator: str = "auto"
    strategy: str = "auto"
    workers: int = 0
    out: str = "???"
    resume: bool = False
    log_every: int = 50
    save_every: int = 500
    validate_every: int = 1000
    store: str = "float32"
