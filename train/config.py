"""The typed config of conf/train.yaml, which holds the keys of every task."""

from __future__ import annotations

from dataclasses import dataclass, field

from .adversarial.config import AdversaryConfig
from .run_config import OptimizerConfig, RunConfig
from .tasks import all_tasks
from .tasks.signals import CropConfig

__all__ = ["AdversaryConfig", "CropConfig", "OptimizerConfig", "RunConfig", "TrainConfig", "compose"]


def compose() -> type[RunConfig]:
    """Return a dataclass with the keys of all tasks, whose `losses` hold the names of all losses."""
    tasks = all_tasks().values()
    configs = dict.fromkeys(task.config for task in tasks)
    bases = [c for c in configs if not any(issubclass(other, c) for other in configs if other is not c)]
    names = dict.fromkeys(name for task in tasks for name in task.losses)
    body = {
        "__doc__": "See conf/train.yaml for the meaning of each key.",
        "__module__": __name__,
        "__annotations__": {"losses": "dict[str, float | None]"},
        "losses": field(default_factory=lambda: dict.fromkeys(names)),
    }
    return dataclass(type("TrainConfig", tuple(bases), body))


TrainConfig = compose()
