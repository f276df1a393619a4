"""One training run with Hydra's records beside it, as `tokenloom train` runs it."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tokenloom.train.config import TrainConfig
from tokenloom.train.loop import Run


def main(cfg: DictConfig) -> None:
    """Train, and print the folder of the run."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, TrainConfig)  # the schema that hydra_app registers
    run = Run(config)
    if run.first:
        _record(cfg, run.out)
    run.go()
    if run.first:
        print(run.out)
    if run.interrupted and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise KeyboardInterrupt  # ends the sweep, too


def _record(cfg: DictConfig, out: Path) -> None:
    """Write Hydra's records where Hydra would, once the run is known to be valid and not another run's folder."""
    folder = out / ".hydra"
    folder.mkdir(exist_ok=True)
    hydra = HydraConfig.get()
    for name, node in (("config", cfg), ("hydra", {"hydra": hydra}), ("overrides", hydra.overrides.task)):
        OmegaConf.save(OmegaConf.create(node), folder / f"{name}.yaml")
