"""Devices, processes and precision of a run, through Lightning Fabric."""

from __future__ import annotations

import os
from typing import Any

import torch

from tokenloom import lazy

from . import state
from .run_config import RunConfig

lightning_fabric = lazy.load("lightning_fabric")  # takes 3 s, so only after the config is checked


def gpus() -> int:
    """Return the number of GPUs of this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def on_gpu(cfg: RunConfig) -> bool:
    """Return whether a run uses GPUs."""
    return cfg.accelerator != "cpu" and gpus() > 0


def processes() -> tuple[int, int]:
    """Return (processes on this machine, machines) from the environment of torchrun; (1, 1) without torchrun."""
    given = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK")}
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        if given["WORLD_SIZE"] not in ("", "1"):
            raise ValueError(
                f"WORLD_SIZE={given['WORLD_SIZE']} without torchrun: each process would train alone; start them with "
                "torchrun --nproc-per-node N -m tokenloom train …"
            )
        return 1, 1
    shown = ", ".join(f"{name}={value or 'nothing'}" for name, value in given.items())
    if not all(value.isdecimal() for value in given.values()):
        raise ValueError(f"the environment of torchrun must hold numbers, got {shown}")
    world, local, rank, local_rank = map(int, given.values())
    if not (0 < local <= world and world % local == 0 and rank < world and local_rank < local):
        raise ValueError(f"{shown} do not fit together: each machine must have LOCAL_WORLD_SIZE processes")
    return local, world // local


def launch(cfg: RunConfig) -> Any:
    """Return the launched Fabric of a run."""

    class Mixed(lightning_fabric.plugins.MixedPrecision):
        """Mixed precision that keeps the batch in float32; Fabric would round the targets of the losses."""

        def convert_input(self, data: Any) -> Any:
            return data

    gpu = on_gpu(cfg)
    local, machines = processes()  # without these, each process of torchrun would train alone on a CPU
    strategy = cfg.strategy
    if strategy == "fsdp":  # Fabric's own "fsdp" is the first generation of FSDP
        strategy = lightning_fabric.strategies.ModelParallelStrategy(
            lambda task, mesh: state.shard(task, mesh["data_parallel"]), local * machines, tensor_parallel_size=1
        )
    options = {"accelerator": "cuda" if gpu else "cpu", "devices": local, "num_nodes": machines, "strategy": strategy}
    if cfg.precision.endswith("-mixed"):
        options["plugins"] = [Mixed(cfg.precision, "cuda" if gpu else "cpu")]
    else:
        options["precision"] = cfg.precision
    fabric = lightning_fabric.Fabric(**options)
    fabric.launch()
    if fabric.world_size != local * machines:
        raise ValueError(f"{local * machines} processes must train together, got {fabric.world_size}")
    return fabric
