"""Training state: in parts over the processes where sharded; on disk whole, atomic, and read without running it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NAME = "state.pt"


def save(state: dict[str, Any], out: Path) -> None:
    """Write `out/state.pt`: at every moment the file is the old state or the new one, whole."""
    temporary = out / f"{NAME}.part"
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out / NAME)
    except (OSError, RuntimeError) as error:  # torch hides what the disk said behind a RuntimeError
        temporary.unlink(missing_ok=True)
        disk = error if isinstance(error, OSError) else error.__context__
        if not isinstance(disk, OSError):
            raise
        reason = disk.strerror or disk
        raise OSError(
            f"the training state could not be written to {out}: {reason}; the previous one is whole"
        ) from error


def load(out: Path) -> dict[str, Any]:
    """The state in `out`; FileNotFoundError or ValueError in one line."""
    path = out / NAME
    if not path.is_file():
        raise FileNotFoundError(f"resume=true, but {path} is not there; start with resume=false")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged: {reason}") from error


def shard(module: nn.Module, mesh: Any) -> nn.Module:
    """Spread every parameter over the processes of a mesh, in place (FSDP2, arXiv 2304.11277).

    The parameters of each layer of a `ModuleList` are fetched together when it runs, all others when `module` does.
    """
    from torch.distributed.fsdp import fully_shard

    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
    for layer in (layer for layers in reversed(lists) for layer in layers):  # the innermost first
        fully_shard(layer, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def whole(tree: Any, keep: bool = True) -> Any:
    """Dicts and lists with each sharded tensor in one piece, on the CPU; None in its place without `keep`.

    All processes must call it with the same tree, even those that keep nothing.
    """
    if isinstance(tree, dict):
        return {key: whole(value, keep) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value, keep) for value in tree]
    if not _sharded(tree):
        return tree
    tensor = tree.detach().full_tensor()  # one at a time: the whole model need not fit on a GPU
    return tensor.cpu().clone() if keep else None  # a clone, since it may be a piece of a larger storage


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of each tensor: its part, or all; writing to it writes to the tensor."""
    return [t.detach().to_local() if _sharded(t) else t.detach() for t in tensors]


def fill_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a state that is whole; of what belongs to sharded parameters each process takes its part."""
    from torch.distributed.tensor import distribute_tensor

    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def part(value: Any, parameter: Tensor) -> Any:
        if not _sharded(parameter) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        where = parameter.device_mesh
        return distribute_tensor(value.to(where.device_type), where, parameter.placements, src_data_rank=None)

    parts = {i: {k: part(v, parameters[i]) for k, v in values.items()} for i, values in saved["state"].items()}
    optimizer.load_state_dict({**saved, "state": parts})


def _sharded(value: Any) -> bool:
    """Whether it is a DTensor, told without importing them."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")
