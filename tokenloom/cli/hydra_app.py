"""Hydra in one place: overrides in, typed configuration out, one job or a sweep."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tokenloom.cli import hydra_errors
from tokenloom.cli.main import one_line

CONFIG = {
    "train": "train", "compare": "compare", "evaluate": "compare", "omni": "abilities", "decoder": "decoders",
    "tokenize": "tokenize",
}  # fmt: skip
"""Command → file under conf/."""


@dataclass
class CompareTypes:
    """The typed keys of conf/compare.yaml; what the others may be is checked where they are used."""

    codecs: list[Any]
    protocols: list[str]
    out: str
    seed: int
    items: int | None
    modelled: bool
    budget: int


@dataclass
class DecoderTypes:
    """The typed keys of conf/decoders.yaml."""

    out: str
    seed: int
    items: int | None
    train_items: int


@dataclass
class TokenizeTypes:
    """The typed keys of conf/tokenize.yaml."""

    format: str
    shard_items: int
    batch_size: int
    device: str
    workers: int | None
    engine: str
    out: str


class _Stop(BaseException):
    """Carries a job's exception past Hydra, which would report it in its own words on several lines."""


def run(command: str, overrides: list[str], *, multirun: bool = False, flags: list[str] | tuple[str, ...] = ()) -> int:
    """Compose conf/<command>.yaml with the overrides and run the command: the exit status.

    In a sweep each job has its own folder under `out`; a job that fails with a user's error is told
    of in one line and the others go on, with status 2 at the end; an interruption ends the sweep.
    Otherwise raises ValueError or OSError for what the user can change, with one line that says what and how.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of being printed by Hydra
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from tokenloom.train.config import TrainConfig

    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    overrides = [quote(override) for override in overrides]
    if command == "tokenize":
        overrides = [_of_codec(override) for override in overrides]
    if multirun:
        overrides = _deferred(overrides)
    arguments = _folders(command, overrides, multirun)
    began, here = time.time(), os.getpid()

    def job(cfg: Any) -> tuple[int, str] | None:
        """In a sweep: (process, line) of a failure. Some launchers run this in another process."""
        try:
            try:
                _TASKS[command](cfg)
            except OmegaConfBaseException as error:
                raise ValueError(hydra_errors.explain(error, CONFIG[command], overrides)) from error
        except (ValueError, OSError) as error:
            if not multirun:
                raise _Stop from error
            line = f"tokenloom: job {HydraConfig.get().job.num}: {one_line(error)}"
            if os.getpid() == here:
                print(line, file=sys.stderr)
            return os.getpid(), line
        except Exception as error:
            if multirun:  # Hydra raises it once the other jobs are done
                raise
            raise _Stop from error
        finally:
            _remove_empty(began)
        return None

    previous, sys.argv = sys.argv, [f"tokenloom {command}", *flags, *(["--multirun"] if multirun else []), *arguments]
    try:
        if multirun and not flags:
            return _sweep(command, job, arguments)
        hydra.main(version_base="1.3", config_path="pkg://tokenloom.conf", config_name=CONFIG[command])(job)()
    except _Stop as stop:
        raise stop.__cause__ from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(hydra_errors.explain(error, CONFIG[command], overrides)) from error
    finally:
        sys.argv = previous
    return 0


def _sweep(command: str, job: Callable[[Any], Any], arguments: list[str]) -> int:
    """Every job of a sweep through its launcher; status 2 where one failed."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize_config_module("tokenloom.conf", version_base="1.3", job_name=command):
        batches = GlobalHydra.instance().hydra.multirun(CONFIG[command], job, [*arguments, "hydra.mode=MULTIRUN"])
    failures = [done.return_value for batch in batches for done in batch if done.return_value]
    for process, line in failures:
        if process != os.getpid():  # not told of yet
            print(line, file=sys.stderr)
    return 2 if failures else 0


def _train(cfg: Any) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    _require(cfg)
    config = OmegaConf.to_object(cfg)
    from tokenloom.train.loop import Run

    run = Run(config)
    if run.first:
        _record(cfg, run.out)
    run.go()
    if run.first:
        print(run.out)
    if run.interrupted and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise KeyboardInterrupt  # the jobs after this one, too


def _record(cfg: Any, out: Path) -> None:
    """Hydra's records of a run, written where Hydra would: but not over another run's, and only once all is well."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    folder = out / ".hydra"
    folder.mkdir(exist_ok=True)
    hydra = HydraConfig.get()
    for name, node in (("config", cfg), ("hydra", {"hydra": hydra}), ("overrides", hydra.overrides.task)):
        OmegaConf.save(OmegaConf.create(node), folder / f"{name}.yaml")


def _remove_empty(began: float) -> None:
    """Take away the folder that Hydra makes before a job is known to be good, where nothing came into it."""
    from hydra.core.hydra_config import HydraConfig

    folder, here = Path(HydraConfig.get().runtime.output_dir), Path.cwd()
    if folder.is_dir() and folder.stat().st_mtime >= began:
        with suppress(OSError):  # not empty
            for empty in (folder, *(above for above in folder.parents if here in above.parents)):
                empty.rmdir()


def _compare(cfg: Any) -> None:
    _check_types(cfg, CompareTypes)
    from tokenloom.eval.compare import compare

    compare.main(cfg)


def _evaluate(cfg: Any) -> None:
    _check_types(cfg, CompareTypes)
    from tokenloom.eval.compare import evaluate

    evaluate.main(cfg)


def _omni(cfg: Any) -> None:
    from tokenloom.eval.omni import evaluate as omni

    omni.main(cfg)


def _decoder(cfg: Any) -> None:
    _check_types(cfg, DecoderTypes)
    from tokenloom.eval.decoder import evaluate as decoders

    decoders.main(cfg)


def _tokenize(cfg: Any) -> None:
    if not cfg.get("data"):
        raise ValueError("no data chosen; data=folder data.path=… or another (tokenloom tokenize --help)")
    if "name" not in cfg.codec:  # missing, as ??? says
        raise ValueError("no codec chosen; codec=NAME is a shipped name, a folder, a hub id or a registered name")
    _check_types(cfg, TokenizeTypes)
    from tokenloom.data.tokens import writing

    writing.main(cfg)


_TASKS: dict[str, Callable[[Any], None]] = {
    "train": _train, "compare": _compare, "evaluate": _evaluate, "omni": _omni, "decoder": _decoder,
    "tokenize": _tokenize,
}  # fmt: skip


def _require(cfg: Any) -> None:
    """ValueError for the first key that must be given and was not."""
    from omegaconf import OmegaConf

    if missing := sorted(OmegaConf.missing_keys(cfg)):
        key = missing[0]
        group = key.split(".")[0]
        chosen = cfg[group].get("name") if "." in key else None
        raise ValueError(f"{f'{group}={chosen}' if chosen else 'this'} needs {key}=…")


def _check_types(cfg: Any, types: type) -> None:
    """Give the values of compare.yaml or decoders.yaml their types, or raise a ValidationError."""
    from omegaconf import OmegaConf

    _require(cfg)
    given = {field.name: cfg[field.name] for field in fields(types)}
    if isinstance(given.get("codecs"), str):
        given["codecs"] = [given["codecs"]]
    typed = OmegaConf.merge(OmegaConf.structured(types), given)
    cfg.merge_with(OmegaConf.to_container(typed, resolve=True))


# -- overrides ----------------------------------------------------------------------------------


def quote(override: str) -> str:
    """Quote a value that Hydra's grammar cannot read but that can only mean one thing.

    `data.path=it(1).tar` and `codecs=[runs/a=b,image/jpeg]` become what their writer meant;
    values with quotes, braces or nested lists are left for Hydra to judge.
    """
    key, equals, value = override.partition("=")
    if not equals or not value or _parses(override) or re.search(r"[\"'{}]|\\$", value):
        return override
    if listed := re.fullmatch(r"\[([^\[\]]*)\]", value):
        elements = [element.strip() for element in listed[1].split(",")]
        if any(element.count("(") != element.count(")") for element in elements):
            return override  # a comma within parentheses: whose is it?
        return f"{key}=[{','.join(e if _parses(f'x={e}') else _quoted(e) for e in elements)}]"
    if value.startswith("[") or "," in value:
        return override
    return f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    return f'"{value}"'


def _parses(override: str, *, sweep: bool = False) -> bool:
    """Whether Hydra can read it; as a sweep over several values, if asked."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return parsed.is_sweep_override() or not sweep


def _of_codec(override: str) -> str:
    """`codec=NAME` for a codec that is there already: to Hydra, codec= chooses what to train, of conf/codec/."""
    key, equals, value = override.partition("=")
    if equals and key == "codec":
        return f"codec.name={value}"
    return f"++{override}" if key.startswith("codec.") and key != "codec.name" else override


def _deferred(overrides: list[str]) -> list[str]:
    """In a sweep over codec=…, data=… or experiment=…, keys under it are given to each job with its own choice.

    Hydra looks them up before that, where there is no codec yet; `++` leaves it to the codec to refuse one.
    """
    swept = {o.partition("=")[0] for o in overrides if _parses(o, sweep=True)}
    groups = {"codec", "data"} & swept if "experiment" not in swept else {"codec", "data"}
    return [f"++{o}" if o.partition("=")[0].partition(".")[0] in groups and "." in o.partition("=")[0] else o
            for o in overrides]  # fmt: skip


def _folders(command: str, overrides: list[str], multirun: bool) -> list[str]:
    """Hydra's folders follow `out`: a job's records lie beside its results, and jobs of a sweep do not collide."""
    rest = [o for o in overrides if not o.startswith("out=")]
    given = [o.removeprefix("out=") for o in overrides if o.startswith("out=")]
    quiet = ["hydra/job_logging=disabled"]  # else every job leaves an empty log file
    # _record writes it, and tokenize has an index, which other overrides than its own are refused by
    quiet += ["hydra.output_subdir=null"] if command in ("train", "tokenize") else []
    if not multirun:
        follow = bool(given) or command != "train"  # where nothing is said, conf/train.yaml has it the other way round
        return [*quiet, *overrides, *(["hydra.run.dir=${out}"] if follow else [])]
    if given and "," in given[-1]:  # a sweep over `out` itself
        return [*quiet, *overrides]
    folder = [f"hydra.sweep.dir={given[-1]}"] if given else []
    own = [] if command == "train" else ["out=${hydra:runtime.output_dir}"]  # train's default already
    return [*quiet, *rest, *folder, *own]
