"""The tasks of `tokenloom train`: each module of this folder that defines a named Job is one."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..job import Job


def all_tasks() -> dict[str, type[Job]]:
    """Return all tasks by name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    jobs = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {job.name: job for job in jobs if issubclass(job, Job) and "name" in vars(job)}
