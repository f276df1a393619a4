"""Commands `tokenloom compare` and `tokenloom evaluate CODEC`, with the config conf/compare.yaml."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from . import front
from .report import terminal
from .results import Results

KEYS = ("items", "rate", "seed", "protocols", "targets", "references", "export", "device", "recognizer")
"""Keys of the config that are arguments of `compare`."""


def compare_command(cfg: DictConfig) -> Results:
    """Compare the codecs of a config, and print tables, takeaways and the path of the report."""
    results, console = _run(cfg, (*KEYS, "anchor")), Console()
    terminal.show(results, console)
    for line in results.takeaways:
        console.print(f"• {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {results.report}", highlight=False, markup=False, soft_wrap=True)
    return _ended(results, console)


def evaluate_command(cfg: DictConfig) -> Results:
    """Measure the single codec of a config, and print its table and the path of results.json."""
    if len(cfg.codecs) != 1:
        raise ValueError(f"evaluate takes one codec, got {len(cfg.codecs)}; compare takes several")
    results, console = _run(cfg, KEYS), Console()
    terminal.show(results, console)
    console.print(f"{results.folder / 'results.json'}", highlight=False, markup=False, soft_wrap=True)
    return _ended(results, console)


def _ended(results: Results, console: Console) -> Results:
    """Return the results of a complete comparison. Raises KeyboardInterrupt for those of an interrupted one."""
    if results.interrupted:
        console.print(f"{results.status}; the same command continues", highlight=False, markup=False, soft_wrap=True)
        raise KeyboardInterrupt
    _require_measured(results)
    return results


def _require_measured(results: Results) -> None:
    """Raise ValueError if a codec could code no item at any setting. The results of the other codecs are written."""
    measured = {record.codec for record in results.records if record.n}
    if empty := {r.codec: None for r in results.records if r.codec not in measured}:
        raise ValueError(f"{', '.join(empty)} coded no item of {results.title}; the reasons are in {results.folder}")


def _run(cfg: DictConfig, keys: tuple[str, ...]) -> Results:
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)
    options = {key: plain[key] for key in (*keys, "modelled", "training", "budget")}
    return front.run(plain["codecs"], plain["data"], plain["out"], **options).results
