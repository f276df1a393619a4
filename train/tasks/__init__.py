"""The tasks of `tokenloom train`: every TrainingJob with a `name` in a module of this folder."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..job import TrainingJob


def all_tasks() -> dict[str, type[TrainingJob]]:
    """Return all tasks by name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    jobs = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {job.name: job for job in jobs if issubclass(job, TrainingJob) and "name" in vars(job)}
