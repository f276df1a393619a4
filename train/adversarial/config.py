"""The config of an adversary."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from tokenloom.data.sources.source import at_least

from ..run_config import RunConfig, betas, number

REGULARIZERS = {"lecam": 0.001, "r1": 10.0, "none": 0.0}
"""Regularizers with their default weights: of current image tokenizers for LeCAM, of StyleGAN2 for R1."""
BALANCES = ("none", "adaptive", "balancer")


@dataclass
class AdversaryConfig:
    """The keys under `adversary`."""

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
class AdversarialConfig(RunConfig):
    """The keys of a run with an adversary."""

    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)


def check(cfg: AdversaryConfig) -> None:
    """Raise ValueError for values that are out of range."""
    for key, allowed in (("regularizer", tuple(REGULARIZERS)), ("balance", BALANCES)):
        if getattr(cfg, key) not in allowed:
            raise ValueError(f"adversary.{key} must be one of {', '.join(allowed)}, got {getattr(cfg, key)!r}")
    at_least("adversary.start", cfg.start, 0)
    if cfg.filters is not None:
        number("adversary.filters", at_least("adversary.filters", cfg.filters, 1), 1, 4096)
    betas("adversary.betas", cfg.betas)
    optional = {"regularizer_weight": (0, 1e9), "feature_matching": (0, 1e6)}
    for key, limits in ({"weight": (0, 1e6), "updates": (0.01, 8), "lr": (0, 1)} | optional).items():
        if key not in optional or getattr(cfg, key) is not None:
            number(f"adversary.{key}", getattr(cfg, key), *limits)


def recipe(cfg: AdversarialConfig) -> dict[str, str]:
    """Return the values that a resumed run must share and a checkpoint records; empty without an adversary."""
    keys = asdict(cfg.adversary).items()
    return {"adversary": ", ".join(f"{k}={v}" for k, v in keys if v is not None)} if cfg.adversary.weight else {}
