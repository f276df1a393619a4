"""`tokenloom tokenize`: a data set as shards of tokens. A killed run loses only the shards in progress."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..sources.registry import open_source
from ..sources.source import at_least
from . import reading
from .folder import write_shards
from .job import EncoderConfig, ShardJob, check_device
from .optional import ENGINES, get, get_format
from .setting import open_codec, plain_setting


def tokenize(
    data: Mapping[str, Any], codec: str | Mapping[str, Any], out: str | Path, *, setting: Any = None,
    format: str = "webdataset", shard_items: int = 1000, batch_size: int = 1, device: str = "cpu",
    engine: str = "local", workers: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the tokens of a data set to a folder.

    The bytes of the shards depend only on data, codec, setting, format, shard_items, batch_size and device. A folder
    with some shards of the same job is continued, and a complete one is left as it is. Ctrl-C and SIGKILL leave
    complete shards.

    Args:
        data: `name` and arguments of a source, and `strict`: refuse broken items instead of counting them.
        codec: What `codecs.load` takes, or {name: a registered codec, and its arguments}.
        out: The folder.
        setting: A setting of the codec, a target such as {"psnr": 30}, or None for the default.
        format: "webdataset" (tar) or "parquet".
        shard_items: Items per shard.
        batch_size: Largest number of adjacent items of one size that are encoded together. Larger is faster, but a
            code may differ from that of the item alone if two codewords are almost equally near.
        device: "cpu" or "cuda".
        engine: "local", or "ray" for a Ray cluster that shares `out` and the data.
        workers: Number of processes or Ray actors. 0: this process. None: one per core, or all of the cluster.

    Returns:
        The index (see `reading.read_index`).

    Raises:
        ValueError: An argument is wrong, or the folder holds something else.
        FileNotFoundError: A path does not exist.
    """
    get_format(format)
    run = get("engine", engine, ENGINES).run
    for name, value in (("shard_items", shard_items), ("batch_size", batch_size)):
        at_least(name, value, 1)
    if workers is not None:
        at_least("workers", workers, 0)
    if engine == "local":  # other machines may have other devices
        check_device(device)
    config = {"name": codec} if isinstance(codec, str) else dict(codec)
    opened = open_codec(config)
    encoder = EncoderConfig(config, opened.fingerprint.hex(), plain_setting(setting, opened), device)
    source = open_source(**{key: value for key, value in data.items() if key != "strict"})
    if not (indices := source.candidates(opened.spec.modality)):
        raise ValueError(f"data={data['name']} holds no {opened.spec.modality}, which {config['name']} needs")
    strict = bool(data.get("strict", False))
    job = ShardJob(source, indices, encoder, str(out), format, shard_items, batch_size, strict)
    return write_shards(job, opened, data, lambda job, numbers: run(job, numbers, workers))


def main(cfg: DictConfig) -> None:
    """Run `tokenloom tokenize` with the composed conf/tokenize.yaml, and print a summary."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    complete = reading.is_complete(plain["out"])
    index = tokenize(**plain)
    totals = index["totals"]
    for key, reason in (("broken", "could not be read"), ("refused", f"{index['codec']['source']} does not take")):
        if named := [line for shard in index["shards"] for line in shard[key]]:
            left = f"left out {len(named)} of {index['data_items']} items that {reason}"
            warnings.warn(f"{left}, named in {reading.INDEX}, first: {named[0]}", stacklevel=2)
    if totals["other"]:
        warnings.warn(f"left out {totals['other']} items of another modality", stacklevel=2)
    rest = "complete already, nothing to do: " if complete else ""
    print(f"{plain['out']}: {rest}{totals['items']:,} items, {totals['tokens']:,} tokens, "
          f"{totals['nominal_bits'] / 8:,.0f} bytes nominal, in {len(index['shards']):,} shards by "
          f"{index['codec']['source']} ({index['codec']['fingerprint']})")  # fmt: skip
