"""The engine `ray`: Ray Data writes the shards, on one machine or a cluster."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray logs routine messages as errors, and raises true ones

import ray
import ray.data
import torch

from .encoder import Encoder
from .job import Events, ShardJob
from .local import portable


def run(job: ShardJob, numbers: Sequence[int], workers: int | None) -> Events:
    """Write shards with at most `workers` actors, on the cluster of RAY_ADDRESS or this process, else locally."""
    started_here = not ray.is_initialized()
    if started_here:
        alone = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, "num_cpus": workers}
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **alone)
    try:
        yield from _map(job, numbers, workers)
    finally:
        if started_here:
            ray.shutdown()


def _map(job: ShardJob, numbers: Sequence[int], workers: int | None) -> Events:
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resource = "CPU" if job.encoder.device == "cpu" else "GPU"
    available = int(ray.cluster_resources().get(resource, 0))
    if not available:
        raise ValueError(f"device={job.encoder.device}: this Ray cluster has no {resource}")
    actors = min(available if workers is None else workers, available, len(numbers))
    shards = ray.data.from_items([{"shard": n} for n in numbers], override_num_blocks=len(numbers))
    done = shards.map(
        _Actor, fn_constructor_args=(job, os.getcwd()), concurrency=(1, actors), num_cpus=1,
        num_gpus=int(resource == "GPU"),
    )  # fmt: skip
    for row in done.iter_rows():
        if row["error"]:
            raise (RuntimeError if row["bug"] else ValueError)(row["error"])
        report = json.loads(row["report"])
        yield len(job.range(report["number"]))
        yield report


class _Actor:
    """A worker of Ray Data. Errors are returned as rows, because Ray would wrap the message."""

    def __init__(self, job: ShardJob, folder: str) -> None:
        self.job, self.folder = job, folder
        self.encoder: Encoder | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self.encoder is None:
                os.chdir(self.folder)  # relative paths are those of the caller
                torch.set_num_threads(1)
                self.encoder = self.job.encoder.open()
            *_, report = self.job.shard(self.encoder, int(row["shard"]))
        except Exception as error:
            sent = portable(error)
            return {"report": "", "error": str(sent), "bug": isinstance(sent, RuntimeError)}
        return {"report": json.dumps(report), "error": "", "bug": False}
