"""The tasks of `tokenloom train`: every registered TrainingJob. Those of tokenloom are the modules of this folder."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tokenloom.registry import Registry

from ..job import TASKS, TrainingJob, register

__all__ = ["TrainingJob", "all_tasks", "register"]


def all_tasks() -> Registry[type[TrainingJob]]:
    """Return all tasks by name."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return TASKS
