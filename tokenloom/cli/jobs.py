"""The jobs that Hydra configures: their configuration files, the types of their keys, and the modules that run them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf


@dataclass
class CompareTypes:
    """Typed keys of conf/compare.yaml. The code that reads a key checks the other ones."""

    codecs: list[Any]
    protocols: list[str]
    out: str
    seed: int
    items: int | None
    modelled: bool
    budget: int


@dataclass
class DecoderTypes:
    """Typed keys of conf/decoders.yaml."""

    out: str
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
    """What runs with one configuration."""

    config: str
    """Name of a file under conf/."""
    module: str
    """Imported when the job runs."""
    types: type | None = None
    """Dataclass of typed keys; None if the configuration is typed by itself or by its reader."""
    function: str = "main"
    """Function of the module that receives the configuration."""


JOBS = {
    "train": Job("train", "tokenloom.cli.commands.train", function="job"),
    "compare": Job("compare", "tokenloom.eval.compare.command", CompareTypes, "compare_command"),
    "evaluate": Job("compare", "tokenloom.eval.compare.command", CompareTypes, "evaluate_command"),
    "omni": Job("abilities", "tokenloom.eval.omni.evaluate"),
    "decoder": Job("decoders", "tokenloom.eval.decoder.evaluate", DecoderTypes),
    "tokenize": Job("tokenize", "tokenloom.data.tokens.writing", TokenizeTypes),
}


def run(name: str, cfg: DictConfig) -> None:
    """Check the configuration of a job, and run it."""
    job = JOBS[name]
    if name == "tokenize":
        _check_choices(cfg)
    if name != "omni":
        _check_complete(cfg)
    if job.types is not None:
        _convert(cfg, job.types)
    getattr(importlib.import_module(job.module), job.function)(cfg)


def _check_choices(cfg: DictConfig) -> None:
    if not cfg.get("data"):
        raise ValueError("no data chosen; use data=folder data.path=… or another source (tokenloom tokenize --help)")
    if "name" not in cfg.codec:  # ??? counts as absent
        raise ValueError("no codec chosen; use codec=NAME: a shipped name, a folder, a hub id or a registered name")


def _check_complete(cfg: DictConfig) -> None:
    """Raise ValueError for the first required key that has no value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        key = missing[0]
        group = key.split(".")[0]
        chosen = cfg[group].get("name") if "." in key else None
        raise ValueError(f"{f'{group}={chosen}' if chosen else 'this'} needs {key}=…")


def _convert(cfg: DictConfig, types: type) -> None:
    """Give the values their types in place. Raises omegaconf's ValidationError if one has another type."""
    given = {field.name: cfg[field.name] for field in fields(types)}
    if isinstance(given.get("codecs"), str):
        given["codecs"] = [given["codecs"]]
    typed = OmegaConf.merge(OmegaConf.structured(types), given)
    cfg.merge_with(OmegaConf.to_container(typed, resolve=True))
