"""One codec on one set: its sweep, as a table and as results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenloom.data import Source

from ..datasets import open_dataset
from .compare import compare, open_modelled
from .results import Results


def evaluate(codec: str, source: Source, out: str | Path, **arguments: Any) -> Results:
    """`compare` of a single codec: every setting, every rate and metric; arguments as there."""
    return compare([codec], source, out, **arguments)


def main(cfg: Any) -> Results:
    """`tokenloom evaluate`: conf/compare.yaml with exactly one entry in `codecs`."""
    from omegaconf import OmegaConf
    from rich.console import Console

    from . import tables

    plain = OmegaConf.to_container(cfg, resolve=True)
    if len(plain["codecs"]) != 1:
        raise ValueError(f"evaluate takes one codec, not {len(plain['codecs'])}; compare takes several")
    chosen = open_dataset(plain["data"])
    keys = ("items", "rate", "seed", "protocols", "targets")
    arguments = {key: plain[key] for key in keys} | {"modelled": open_modelled(plain)}
    results = evaluate(
        plain["codecs"][0], chosen.source, plain["out"], title=chosen.title, strict=chosen.strict, **arguments
    )
    console = Console()
    tables.show(results, console)
    console.print(f"{results.folder / 'results.json'}", highlight=False, markup=False, soft_wrap=True)
    return results
