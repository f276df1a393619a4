"""`tokenloom tokenize`: a data set as shards of tokens. A shard is the unit of work, and all that a kill can cost."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Modality

from .. import open_source
from ..sources.files import Entry, Files
from ..sources.joined import Joined
from ..sources.mix import Mix
from ..sources.source import BrokenItem, Source, at_least
from . import reading
from .engines import ENGINES
from .job import PROGRESS, Job, Step, check_device, checked_setting, open_codec
from .shards import format_of, index_type, require

# -- doing it -----------------------------------------------------------------------------------


def tokenize(
    data: Mapping[str, Any],
    codec: str | Mapping[str, Any],
    out: str | Path,
    *,
    setting: Any = None,
    format: str = "webdataset",
    shard_items: int = 1000,
    batch_size: int = 1,
    device: str = "cpu",
    engine: str = "local",
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the tokens of a data set to the folder `out`; the index (see `reading.read_index`).

    data         a source's `name`, its own keys, and `strict`: a broken item is refused and not counted
    codec        what `codecs.load` takes, or {name: a registered codec, and its arguments}
    setting      a value of the codec's dial, a target such as {"psnr": 30}, or None for the default
    format       webdataset (tar) or parquet
    shard_items  items of the data to a shard
    batch_size   neighbours of one size that are encoded together: faster, and where two codewords are equally
                 near the code may be another than that of the item alone
    device       as PyTorch names it: cpu, cuda
    engine       local, or ray: on a Ray cluster that shares `out` and the data
    workers      processes, 0: this one, None: one for each core; of Ray: actors

    The bytes of the shards depend on nothing but data, codec, setting, format, shard_items, batch_size and device.
    A folder that holds whole shards of the same is gone on with; one that is complete is left as it is. Ctrl-C and
    SIGKILL leave whole shards. Raises ValueError or FileNotFoundError, in one line, for what the caller can change.
    """
    out = Path(out)
    format_of(format)
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    require(f"engine={engine}", ENGINES[engine].needs)
    for name, value, least in (("shard_items", shard_items, 1), ("batch_size", batch_size, 1)):
        at_least(name, value, least)
    if workers is not None:
        at_least("workers", workers, 0)
    if engine == "local":  # other machines may have other devices
        check_device(device)
    job, planned = _prepare(data, codec, out, setting, format, shard_items, batch_size, device)
    done = _begun(out, planned)
    missing = [number for number in range(job.shards) if number not in done]
    if missing:
        _write_index(out, {**planned, "complete": False, "shards": [done[number] for number in sorted(done)]})
        _run(job, missing, done, engine, workers)
    shards = [done[number] for number in range(job.shards)]
    if job.strict and (broken := [line for shard in shards for line in shard["broken"]]):
        raise BrokenItem(broken[0])
    totals = _totals(shards)
    if not totals["items"]:
        reasons = [line for shard in shards for line in (*shard["broken"], *shard["refused"])]
        raise ValueError(f"data={data['name']} has no item that {planned['codec']['source']} takes: "
                         f"{reasons[0] if reasons else 'all are of another modality'}")  # fmt: skip
    index = {**planned, "complete": True, "totals": totals, "shards": shards}
    if missing or (out / PROGRESS).exists():
        _write_index(out, index)
        shutil.rmtree(out / PROGRESS, ignore_errors=True)  # another machine may be doing the same
    return index


def _prepare(
    data: Mapping[str, Any], codec: str | Mapping[str, Any], out: Path, setting: Any, format: str,
    shard_items: int, batch_size: int, device: str,
) -> tuple[Job, dict[str, Any]]:  # fmt: skip
    """The job, and the index that it would write."""
    node = {"name": codec} if isinstance(codec, str) else dict(codec)
    opened = open_codec(node)
    setting = checked_setting(setting, opened)
    source = open_source(**{key: value for key, value in data.items() if key != "strict"})
    if not (indices := candidates(source, opened.spec.modality)):
        raise ValueError(f"data={data['name']} holds no {opened.spec.modality}, which {node['name']} would need")
    strict, fingerprint = bool(data.get("strict", False)), opened.fingerprint.hex()
    job = Job(source, indices, node, fingerprint, setting, str(out), format, shard_items, batch_size, device, strict)
    return job, json.loads(json.dumps(plan(job, opened, data), default=str))


def _run(job: Job, missing: Sequence[int], done: dict[int, dict[str, Any]], engine: str, workers: int | None) -> None:
    """Compute the missing shards; their reports come into `done`."""
    ready = sum(len(job.range(number)) for number in done)
    try:
        with _progress(f"{job.codec['name']:.20}", len(job.indices), ready) as advance:
            for event in ENGINES[engine].run(job, missing, workers):
                if isinstance(event, Step):
                    advance(event)
                else:
                    done[event["number"]] = event
    except KeyboardInterrupt:
        stands = f"{len(done)} of {job.shards} shards are whole in {job.out}"
        print(f"tokenloom: {stands}; the same command goes on with the others", file=sys.stderr)
        raise


@contextmanager
def _progress(says: str, total: int, ready: int) -> Iterator[Any]:
    """A progress bar over items with items and tokens a second and the time left; gives advance(step)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            if not task.speed:
                return Text("")
            tokens = task.speed * task.fields["tokens"] / max(task.completed - ready, 1)
            return Text(f"{task.speed:,.1f} items/s {tokens:,.0f} tokens/s", style="progress.data.speed")

    columns = (TextColumn("{task.description}"), BarColumn(16), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    columns += (Speed(table_column=Column(no_wrap=True)), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(says, total=total, completed=ready, tokens=0)

        def advance(step: Step) -> None:
            tokens = progress.tasks[0].fields["tokens"] + step.tokens
            progress.update(task, advance=step.items, tokens=tokens)

        yield advance


def main(cfg: Any) -> None:
    """`tokenloom tokenize`: the composed config of conf/tokenize.yaml → shards, an index, a line."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(cfg, resolve=True)
    complete = reading.is_complete(plain["out"])
    index = tokenize(**plain)
    totals = index["totals"]
    for key, what in (("broken", "could not be read"), ("refused", f"{index['codec']['source']} does not take")):
        if named := [line for shard in index["shards"] for line in shard[key]]:
            left = f"left out {len(named)} of {index['data_items']} items that {what}"
            warnings.warn(f"{left}, named in {reading.INDEX}, first: {named[0]}", stacklevel=2)
    if totals["other"]:
        warnings.warn(f"left out {totals['other']} items of another modality", stacklevel=2)
    rest = "complete already, nothing to do: " if complete else ""
    print(f"{plain['out']}: {rest}{totals['items']:,} items, {totals['tokens']:,} tokens, "
          f"{totals['nominal_bits'] / 8:,.0f} bytes nominal, in {len(index['shards']):,} shards by "
          f"{index['codec']['source']} ({index['codec']['fingerprint']})")  # fmt: skip


# -- what to do ---------------------------------------------------------------------------------


def candidates(source: Source, modality: Modality) -> Sequence[int]:
    """The items that may be of a modality, as far as that is known without reading them."""
    if isinstance(source, Files):
        return [i for i, entry in enumerate(source.entries) if entry.modality is modality]
    if isinstance(source, Mix):
        starts = [0, *source.ends]
        return [starts[k] + i for k, part in enumerate(source.parts) for i in candidates(part, modality)]
    return range(len(source))


def digest(source: Source) -> str:
    """Changes with the number of items and, where they are files, with their names and sizes."""
    found = hashlib.sha256(f"{len(source)}".encode())
    for entry in _entries(source):
        size = entry.signal.size if entry.signal.size >= 0 else os.path.getsize(entry.signal.path)
        found.update(f"{entry.key}:{size}\n".encode("utf-8", "backslashreplace"))
    return found.hexdigest()[:16]


def _entries(source: Source) -> Iterator[Entry]:
    if isinstance(source, Files):
        yield from source.entries
    elif isinstance(source, Joined):
        yield from source.files.entries
    elif isinstance(source, Mix):
        for part in source.parts:
            yield from _entries(part)


def plan(job: Job, codec: Codec, data: Mapping[str, Any]) -> dict[str, Any]:
    """The index before any shard: all that the bytes of the shards depend on."""
    spec = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(codec.spec).items()}
    source = {key: value for key, value in job.codec.items() if key != "name"}
    return {
        "version": reading.VERSION,
        "format": job.format,
        "codec": {"source": job.codec["name"], **source, "name": codec.name, "fingerprint": job.fingerprint},
        "setting": job.setting,
        "spec": spec,
        "dtype": index_type(codec.spec.codebook_sizes),
        "data": {key: value for key, value in data.items() if key != "strict"},
        "data_items": len(job.indices),
        "data_digest": digest(job.source),
        "shard_items": job.shard_items,
        "batch_size": job.batch_size,
        "device": job.device,
    }


# -- where it stands ----------------------------------------------------------------------------


def _begun(out: Path, planned: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Reports of the shards that are in place; ValueError where the folder holds something else."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; wanted a folder")
    try:
        index = reading.read_index(out)
    except FileNotFoundError:
        if out.is_dir() and any(not p.name.startswith(".") for p in out.iterdir()):
            raise ValueError(f"out={out} holds other files and no {reading.INDEX}; name a new folder") from None
        return {}
    reports = list(index["shards"])
    for path in (out / PROGRESS).glob("[0-9]*.json"):
        with suppress(ValueError):  # cut short by a crash of the machine: this shard is made again
            reports.append(json.loads(path.read_bytes()))
    done = {r["number"]: r for r in reports if reading.is_whole(out, r)}
    if not done:  # nothing is lost
        return {}
    begun, wanted = _flat({key: index.get(key) for key in planned}), _flat(planned)
    for key in {**wanted, **begun}:
        if begun.get(key) != wanted.get(key):
            was, now = begun.get(key), wanted.get(key)
            if key == "data_digest":
                raise ValueError(f"out={out} was begun with other data: names, sizes or number of items; name another")
            raise ValueError(f"out={out} was begun with {key}={was!r}, not {now!r}; name another folder")
    return done


def _flat(index: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys with dots between: what two indices are compared by, without what follows from the rest."""
    flat = {}
    for key, value in index.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        elif f"{above}{key}" != "codec.source":  # one codec may have several paths
            flat[f"{above}{key}"] = value
    return flat


def _totals(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sums = {key: sum(shard[key] for shard in shards) for key in ("items", "tokens", "bytes", "other")}
    lists = {key: sum(len(shard[key]) for shard in shards) for key in ("broken", "refused")}
    return {**sums, "nominal_bits": math.fsum(shard["nominal_bits"] for shard in shards), **lists}


def _write_index(out: Path, index: dict[str, Any]) -> None:
    (out / PROGRESS).mkdir(parents=True, exist_ok=True)
    part = out / PROGRESS / f"{reading.INDEX}.{os.getpid()}.part"
    part.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    part.replace(out / reading.INDEX)
