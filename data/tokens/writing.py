"""`tokenloom tokenize`: write a data set as shards of tokens, or continue an interrupted run.

A killed run loses only the shards in progress.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenloom import devices, files, lazy, lock, progress
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.media import notices

from ..sources.registry import open_source
from ..sources.source import BrokenItem, Source, at_least
from . import reading
from .encoder import EncoderConfig, open_codec, plain_setting
from .job import PROGRESS, Events, Report, ShardJob
from .optional import ENGINES, get, get_format
from .row import index_type

omegaconf = lazy.load("omegaconf", "train")

Run = Callable[[ShardJob, Sequence[int]], Events]
"""Function that writes the shards of a job with these numbers."""


def tokenize(
    data: Mapping[str, Any], codec: str | Mapping[str, Any], out: str | Path, *, setting: Any = None,
    format: str = "webdataset", shard_items: int = 1000, batch_size: int = 1, device: str = "auto",
    engine: str = "local", workers: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the tokens of a data set to a folder.

    The bytes of the shards depend only on data, codec, setting, format, shard_items and device. A folder
    with some shards of the same job is continued, and a complete one is left as it is. Ctrl-C and SIGKILL leave
    complete shards.

    Args:
        data: `name` and arguments of a source, and `strict`: refuse broken items instead of counting them.
        codec: What `codecs.load` takes, or {name: a registered codec, and its arguments}.
        out: The folder.
        setting: A setting of the codec, a target such as {"psnr": 30}, or None for the default.
        format: "webdataset" (tar) or "parquet".
        shard_items: Items per shard.
        batch_size: Largest number of adjacent items of one size that are encoded together, which may be faster. Codecs
            whose codes could depend on it get their items one by one.
        device: auto, cpu, cuda, cuda:1 or mps. The index has the device that auto selected on this machine.
        engine: "local", or "ray" for a Ray cluster that shares `out` and the data.
        workers: Number of processes or Ray actors. 0: this process. None: one per core, or all of the cluster.

    Returns:
        The index (see `reading.read_index`).

    Raises:
        ValueError: An argument is wrong, another run is in the folder, or it holds something else.
        FileNotFoundError: A path does not exist.
    """
    get_format(format)
    run = get("engine", engine, ENGINES).run
    for name, value in (("shard_items", shard_items), ("batch_size", batch_size)):
        at_least(name, value, 1)
    if workers is not None:
        at_least("workers", workers, 0 if engine == "local" else 1)  # actors are never in this process
    if engine == "local" or device == devices.AUTO:  # the machines of a cluster may have other devices
        device = str(devices.resolve(device))
    config = {"name": codec} if isinstance(codec, str) else dict(codec)
    opened = open_codec(config)
    encoder = EncoderConfig(config, opened.fingerprint.hex(), plain_setting(setting, opened), device)
    source = open_source(**{key: value for key, value in data.items() if key != "strict"})
    if not (indices := source.candidates(opened.spec.modality)):
        raise ValueError(f"data={data['name']} holds no {opened.spec.modality}, which {config['name']} needs")
    strict = bool(data.get("strict", False))
    together = batch_size if getattr(opened, "invariant", False) else 1
    job = ShardJob(source, indices, encoder, str(out), format, shard_items, together, strict)
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"out must be a folder, {out} is a file")
    new = not Path(out).exists()
    try:
        with files.naming(Path(out)), lock.locked(Path(out)):
            return write_shards(job, opened, data, lambda job, numbers: run(job, numbers, workers))
    finally:
        if new:
            with suppress(OSError):  # it is not empty
                Path(out).rmdir()


def main(cfg: omegaconf.DictConfig) -> None:
    """Run `tokenloom tokenize` with the composed conf/tokenize.yaml, and print a summary."""
    plain = omegaconf.OmegaConf.to_container(cfg, resolve=True)
    complete = reading.is_complete(plain["out"])
    index = tokenize(**plain)
    totals = index["totals"]
    for key, reason in (("broken", "could not be read"), ("refused", f"{index['codec']['source']} does not take")):
        if named := [line for shard in index["shards"] for line in shard[key]]:
            left = f"left out {len(named)} of {index['data_items']} items that {reason}"
            warnings.warn(f"{left}, named in {reading.INDEX}, first: {named[0]}", stacklevel=2)
    if totals["other"]:
        warnings.warn(f"left out {totals['other']} items of another modality", stacklevel=2)
    tally = notices.Tally()
    for shard in index["shards"]:
        tally.merge(shard.get("notices", {}))
    tally.warn(plain["data"]["name"], index["data_items"])
    rest = "complete already, nothing to do: " if complete else ""
    print(f"{plain['out']}: {rest}{totals['items']:,} items, {totals['tokens']:,} tokens, "
          f"{totals['nominal_bits'] / 8:,.0f} bytes nominal, in {len(index['shards']):,} shards by "
          f"{index['codec']['source']} ({index['codec']['fingerprint']})")  # fmt: skip


def write_shards(job: ShardJob, codec: Codec, data: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Write the missing shards of a job with the engine `run`, then the index with `data`. Returns the index.

    Raises ValueError if the folder holds other files or another job, and BrokenItem for a broken item of a strict job.
    """
    out = Path(job.out)
    plan = json.loads(json.dumps(_plan(job, codec, data), default=str))
    done = _complete_shards(out, plan)
    missing = [number for number in range(job.shards) if number not in done]
    if not done:
        _clear(out)
    if missing:
        _write_index(out, {**plan, "complete": False, "shards": [done[number] for number in sorted(done)]})
        _run(job, missing, done, run)
    shards = [done[number] for number in range(job.shards)]
    if job.strict and (broken := [line for shard in shards for line in shard["broken"]]):
        raise BrokenItem(broken[0])
    totals = _totals(shards)
    if not totals["items"]:
        reasons = [line for shard in shards for line in (*shard["broken"], *shard["refused"])]
        raise ValueError(f"data={data['name']} has no item that {plan['codec']['source']} takes: "
                         f"{reasons[0] if reasons else 'all are of another modality'}")  # fmt: skip
    index = {**plan, "complete": True, "totals": totals, "shards": shards}
    if missing or (out / PROGRESS).exists():
        _write_index(out, index)
        shutil.rmtree(out / PROGRESS, ignore_errors=True)
    return index


def _run(job: ShardJob, missing: Sequence[int], done: dict[int, Report], run: Run) -> None:
    """Write the missing shards and add their reports to `done`."""
    ready = sum(len(job.range(number)) for number in done)
    try:
        with progress.bar(f"{job.encoder.codec['name']:.20}", len(job.indices), "items", done=ready) as advance:
            for event in run(job, missing):
                if isinstance(event, int):
                    advance(event)
                else:
                    done[event["number"]] = event
    except KeyboardInterrupt:
        complete = f"{len(done)} of {job.shards} shards are complete in {job.out}"
        print(f"tokenloom: {complete}; the same command continues with the others", file=sys.stderr)
        raise


def _plan(job: ShardJob, codec: Codec, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the index without shards: everything that determines their bytes."""
    spec = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(codec.spec).items()}
    config = {key: value for key, value in job.encoder.codec.items() if key != "name"}
    name, fingerprint = job.encoder.codec["name"], job.encoder.fingerprint
    return {
        "version": reading.VERSION,
        "format": job.format,
        "codec": {"source": name, **config, "name": codec.name, "fingerprint": fingerprint},
        "setting": job.encoder.setting,
        "spec": spec,
        "dtype": index_type(codec.spec.codebook_sizes),
        "data": {key: value for key, value in data.items() if key != "strict"},
        "data_items": len(job.indices),
        "data_digest": _digest(job.source),
        "shard_items": job.shard_items,
        "device": job.encoder.device,
    }


def _digest(source: Source) -> str:
    """Return a hash of the number of items and of the names and sizes of their files."""
    digest = hashlib.sha256(f"{len(source)}".encode())
    for name, size in source.contents():
        digest.update(f"{name}:{size}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


def _complete_shards(out: Path, plan: Mapping[str, Any]) -> dict[int, Report]:
    """Return the reports of complete shards. Raises ValueError if the folder holds something else."""
    try:
        index = reading.read_index(out)
    except FileNotFoundError:
        if out.is_dir() and any(not p.name.startswith(".") for p in out.iterdir()):
            raise ValueError(f"out={out} holds other files and no {reading.INDEX}; choose a new folder") from None
        return {}
    reports = list(index["shards"])
    for path in (out / PROGRESS).glob("[0-9]*.json"):
        with suppress(ValueError):  # a crash of the machine cut the report: write this shard again
            reports.append(json.loads(path.read_bytes()))
    done = {report["number"]: report for report in reports if reading.is_whole(out, report)}
    if not done:  # nothing is lost
        return {}
    before, now = _flatten({key: index.get(key) for key in plan}), _flatten(plan)
    for key in {**now, **before}:
        if before.get(key) != now.get(key):
            if key == "data_digest":
                raise ValueError(f"out={out} was begun with other data (names, sizes, number of items); choose another")
            was, value = before.get(key), now.get(key)
            raise ValueError(f"out={out} was begun with {key}={was!r}, not {value!r}; choose another folder")
    return done


def _clear(out: Path) -> None:
    """Remove what another job left in a folder without a complete shard: its reports, and a shard without report."""
    shutil.rmtree(out / PROGRESS, ignore_errors=True)
    for path in out.glob("tokens-[0-9]*"):
        path.unlink()


def _flatten(index: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join nested keys by dots, for a comparison. The path of the codec does not matter."""
    flat = {}
    for key, value in index.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "codec.source":
            flat[f"{prefix}{key}"] = value
    return flat


def _totals(shards: Sequence[Report]) -> dict[str, Any]:
    sums = {key: sum(shard[key] for shard in shards) for key in ("items", "tokens", "bytes", "other")}
    lists = {key: sum(len(shard[key]) for shard in shards) for key in ("broken", "refused")}
    return {**sums, "nominal_bits": math.fsum(shard["nominal_bits"] for shard in shards), **lists}


def _write_index(out: Path, index: Mapping[str, Any]) -> None:
    files.write(out / reading.INDEX, json.dumps(index, indent=1) + "\n")
