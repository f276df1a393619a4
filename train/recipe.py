"""What a resumed run must share with the run that it continues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .run_config import RunConfig
from .tasks import all_tasks

FIXED = ("seed", "batch_size", "ema", "losses", "optimizer")
"""Keys that must be equal, besides those of the tasks. `steps` may grow, and machines may change."""


def recipe(cfg: RunConfig, **more: Any) -> dict[str, Any]:
    """Return plain values to compare: `more`, and the fixed keys of the config."""
    keys = [*FIXED, *(key for task in all_tasks().values() for key in (*task.architecture, *task.fixed))]
    values = asdict(cfg)
    return more | {key: values[key] for key in keys if key in values and key not in more}


def check_continuation(saved: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
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
