"""Devices, processes and precision of a run, through Lightning Fabric."""

from __future__ import annotations

import atexit
import os
import warnings
from typing import Any

from torch import distributed

from tokenloom import devices, lazy, precision

from . import state
from .run_config import RunConfig

lightning_fabric = lazy.load("lightning_fabric", "train")  # takes 3 s, so only after the config is checked


SLOW = 0.7
"""Speed of bfloat16 relative to float32 that is slow. Processors without its instructions reach a third at best."""


def gpus(cfg: RunConfig) -> int:
    """Return the number of GPUs that a run may use: 0 on the CPU, 1 if the config names one. Raises ValueError."""
    kind = devices.resolve(cfg.device).type
    if kind == "cpu" or ":" in cfg.device:
        return int(kind != "cpu")
    return sum(device.type == kind for device in devices.available())


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


def mixed_precision(cfg: RunConfig) -> str:
    """Return the precision of a run. For auto: bfloat16 unless the device is slow with it, then float32.

    Warns of a choice that is slow on this machine.
    """
    device = devices.resolve(cfg.device)
    if cfg.precision not in ("auto", "bf16-mixed"):
        return cfg.precision
    speed = precision.bfloat16_speed(device)
    if cfg.precision == "auto":
        return "bf16-mixed" if speed > SLOW else "32-true"
    if speed < SLOW:
        warnings.warn(f"{device.type} computes bfloat16 {1 / speed:.3g} times slower than float32; precision=32-true "
                      "is faster here", stacklevel=2)  # fmt: skip
    return cfg.precision


def launch(cfg: RunConfig) -> Any:
    """Return the launched Fabric of a run."""

    class Mixed(lightning_fabric.plugins.MixedPrecision):
        """Mixed precision that keeps the batch in float32; Fabric would round the targets of the losses."""

        def convert_input(self, data: Any) -> Any:
            return data

    device = devices.resolve(cfg.device)
    local, machines = processes()  # without these, each process of torchrun would train alone on a CPU
    strategy = cfg.strategy
    if strategy == "fsdp":  # Fabric's own "fsdp" is the first generation of FSDP
        strategy = lightning_fabric.strategies.ModelParallelStrategy(
            lambda task, mesh: state.shard(task, mesh["data_parallel"]), local * machines, tensor_parallel_size=1
        )
    used = [device.index] if device.type == "cuda" and ":" in cfg.device else local
    options = {"accelerator": device.type, "devices": used, "num_nodes": machines, "strategy": strategy}
    if cfg.precision.endswith("-mixed"):
        options["plugins"] = [Mixed(cfg.precision, device.type)]
    else:
        options["precision"] = cfg.precision
    fabric = lightning_fabric.Fabric(**options)
    fabric.launch()
    if local * machines > 1:
        atexit.register(_leave)
    if fabric.world_size != local * machines:
        raise ValueError(f"{local * machines} processes must train together, got {fabric.world_size}")
    return fabric


def _leave() -> None:
    """End the group of processes, whose threads may abort a process that ends. Fabric does so for NCCL only."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
