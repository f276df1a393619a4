"""Runs of Hydra: compose a typed configuration from overrides, then run one job or a sweep."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import chdir, suppress
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tokenloom import environment, errors, own_code
from tokenloom.cli import hydra_errors, jobs, own, resuming
from tokenloom.cli.overrides import folders, prepare
from tokenloom.train.config import compose

Failure = tuple[int, str]
"""Process and message of a job that failed in a sweep."""
Job = Callable[[DictConfig], Failure | None]
"""Function that Hydra calls for each job."""


class _Stop(BaseException):
    """Carrier of a job's exception through Hydra, which would print the exception itself on several lines."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def run(command: str, overrides: list[str], flags: Sequence[str] = ()) -> int:
    """Compose the configuration of a job and run it; return the exit status.

    In a sweep each job has its own folder under `out`. If a user's error ends a job, one line reports it, the other
    jobs run, and the status is 2. An interruption ends the sweep.

    Args:
        command: A name of `jobs.JOBS`.
        overrides: Items key=value.
        flags: Options of Hydra, such as --cfg job; --multirun for a sweep.

    Raises:
        ValueError, OSError: For an error that the user can correct.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises exceptions instead of printing them
    environment.command = ["tokenloom", command, *flags, *overrides]
    config_name = jobs.JOBS[command].config
    multirun = "--multirun" in flags
    folder, flags = _config_dir(flags)
    overrides = own.search(prepare(command, overrides, multirun=multirun), folder)
    files, overrides = own.take_imports(overrides)
    own_code.load(files)  # before the configuration is composed: the files may define its choices and keys
    run_folder = resuming.folder(overrides) if command == "train" else None
    if run_folder is None:
        named, overrides = own.take_codecs(command, overrides)
        files = list(dict.fromkeys([*files, *named]))
    if command == "train" and files:
        overrides.append(f"imports={own.listed(files)}")
    place: Path | None = None
    if run_folder is not None:
        config_name, overrides, place = resuming.prepare(run_folder, overrides, multirun=multirun)
    own.offer(overrides)
    ConfigStore.instance().store(name="train_schema", node=compose())
    arguments = folders(command, overrides, multirun=multirun)
    with chdir(place or Path.cwd()):
        return _launch(command, config_name, overrides, flags, arguments, _job(command, overrides, multirun, files))


def _launch(
    command: str, config_name: str, overrides: list[str], flags: list[str], arguments: list[str], job: Job
) -> int:
    """Let Hydra compose the configuration and call the job, once or for each job of a sweep; return the status."""
    multirun = "--multirun" in flags
    previous, sys.argv = sys.argv, [f"tokenloom {command}", *flags, *arguments]
    try:
        if multirun and len(flags) == 1:
            return _sweep(command, job, arguments)
        hydra.main(version_base="1.3", config_path="pkg://tokenloom.conf", config_name=config_name)(job)()
    except _Stop as stop:
        raise stop.error from stop.error.__cause__
    except FileExistsError as error:  # from Hydra, which creates the folder of the job
        raise ValueError(f"out must be a folder, {error.filename} is a file") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(hydra_errors.explain(error, config_name, overrides)) from error
    finally:
        sys.argv = previous
    return 0


def _config_dir(flags: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of --config-dir, which Hydra does not take in every kind of run, and the other flags."""
    rest = list(flags)
    if "--config-dir" not in rest:
        return None, rest
    at = rest.index("--config-dir")
    return rest[at + 1], rest[:at] + rest[at + 2 :]


def _job(command: str, overrides: list[str], multirun: bool, files: list[str]) -> Job:
    """Return the function that Hydra calls for each job. In a sweep it returns a user's error, otherwise it raises.

    `files` are the user's imports, for launchers that run jobs in other processes.
    """
    began, parent = time.time(), os.getpid()

    def job(cfg: DictConfig) -> Failure | None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        new = folder.is_dir() and folder.stat().st_mtime >= began
        try:
            try:
                own_code.load(files)
                jobs.run(command, cfg)
            except OmegaConfBaseException as error:
                raise ValueError(hydra_errors.explain(error, jobs.JOBS[command].config, overrides)) from error
        except Exception as error:
            if not multirun:
                raise _Stop(error) from error
            if not isinstance(error, ValueError | OSError):
                raise  # Hydra raises it again after the other jobs
            line = f"tokenloom: job {HydraConfig.get().job.num}: {errors.one_line(error)}"
            if os.getpid() == parent:  # some launchers run jobs in other processes
                print(line, file=sys.stderr)
            return os.getpid(), line
        finally:
            if new:
                _remove_empty(folder)
        return None

    return job


def _sweep(command: str, job: Job, arguments: list[str]) -> int:
    """Run every job of a sweep through Hydra's launcher; return status 2 if one failed."""
    config_name = jobs.JOBS[command].config
    with hydra.initialize_config_module("tokenloom.conf", version_base="1.3", job_name=command):
        launcher = GlobalHydra.instance().hydra
        assert launcher is not None  # the context above sets it
        batches = launcher.multirun(config_name, job, [*arguments, "hydra.mode=MULTIRUN"])
    failures = [done.return_value for batch in batches for done in batch if done.return_value]
    for process, line in failures:
        if process != os.getpid():  # a job in this process has printed its own
            print(line, file=sys.stderr)
    return 2 if failures else 0


def _remove_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a job and its parents, as far as they are empty."""
    here = Path.cwd()
    with suppress(OSError):  # not empty
        for empty in (folder, *(above for above in folder.parents if here in above.parents)):
            empty.rmdir()
