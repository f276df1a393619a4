"""The jobs that Hydra configures: configuration file, types of keys, and function of each."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tokenloom import files, lazy, lock


@dataclass
class CompareTypes:
    """Typed keys of conf/compare.yaml. The code that uses the other keys checks them."""

    codecs: list[Any]
    protocols: list[str]
    references: list[str]
    export: str | None
    out: str
    device: str
    seed: int
    items: int | None
    modelled: bool
    budget: int


@dataclass
class DecoderTypes:
    """Typed keys of conf/decoders.yaml."""

    out: str
    device: str
    seed: int
    items: int | None
    train_items: int


@dataclass
class TokenizeTypes:
    """Typed keys of conf/tokenize.yaml."""

    format: str
    shard_items: int
    batch_size: int
    device: str
    workers: int | None
    engine: str
    out: str


@dataclass(frozen=True)
class Job:
    """A function that runs with a configuration."""

    config: str
    """Name of a file under conf/."""
    module: str
    extra: str
    """Extra of tokenloom that installs what the module imports."""
    types: type | None = None
    """Dataclass of typed keys; None if the configuration has a schema or its reader checks the types."""
    function: str = "main"


JOBS = {
    "train": Job("train", "tokenloom.cli.commands.train", "train", function="job"),
    "compare": Job("compare", "tokenloom.eval.compare.command", "eval", CompareTypes, "compare_command"),
    "evaluate": Job("compare", "tokenloom.eval.compare.command", "eval", CompareTypes, "evaluate_command"),
    "omni": Job("abilities", "tokenloom.eval.omni.evaluate", "eval"),
    "decoder": Job("decoders", "tokenloom.eval.decoder.evaluate", "eval", DecoderTypes),
    "tokenize": Job("tokenize", "tokenloom.data.tokens.writing", "train", TokenizeTypes),
}


def run(name: str, cfg: DictConfig) -> None:
    """Check the configuration of a job, and run it."""
    job = JOBS[name]
    if name == "tokenize":
        _check_choices(cfg)
    if name != "omni":
        check_complete(cfg)
    if job.types is not None:
        _convert(cfg, job.types)
    if not str(cfg.out):
        raise ValueError("out must name a folder, got an empty name")
    function, out = getattr(lazy.load(job.module, job.extra), job.function), Path(cfg.out)
    first = int(os.environ.get("RANK", "0")) == 0  # torchrun starts several processes of one run
    with files.naming(out), lock.locked(out) if first and name != "tokenize" else nullcontext():  # it locks by itself
        function(cfg)
        if name not in ("train", "tokenize"):
            record(cfg, out)


def record(cfg: DictConfig, out: Path) -> None:
    """Write Hydra's records of a job to `out`. Hydra would write them before the arguments are checked."""
    hydra = HydraConfig.get()
    nodes = {"config": cfg, "hydra": {"hydra": hydra}, "overrides": hydra.overrides.task}
    texts = {name: OmegaConf.to_yaml(OmegaConf.create(node)) for name, node in nodes.items()}
    files.write_together({out / ".hydra" / f"{name}.yaml": text for name, text in texts.items()})


def _check_choices(cfg: DictConfig) -> None:
    if not cfg.get("data"):
        raise ValueError("no data chosen; use data=folder data.path=… or another source (tokenloom tokenize --help)")
    if "name" not in cfg.codec:  # a key with the value ??? counts as absent
        raise ValueError("no codec chosen; use codec=NAME: a shipped name, a folder, a hub id or a registered name")


def check_complete(cfg: DictConfig) -> None:
    """Raise ValueError for the first required key that has no value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        key = missing[0]
        group = key.split(".")[0]
        chosen = cfg[group].get("name") if "." in key else None
        raise ValueError(f"{f'{group}={chosen}' if chosen else 'this'} needs {key}=…")


def _convert(cfg: DictConfig, types: type) -> None:
    """Convert the values to their types in place. Raise omegaconf's ValidationError if that is impossible."""
    values = {field.name: cfg[field.name] for field in fields(types)}
    for key in ("codecs", "references"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    typed = OmegaConf.merge(OmegaConf.structured(types), values)
    cfg.merge_with(OmegaConf.to_container(typed, resolve=True))
