"""The training state: sharded over the processes, or whole in a file. Reading the file runs no code from it."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tokenloom import files
from tokenloom.errors import first_line

NAME, PREVIOUS = "state.pt", "state.previous.pt"
"""The last state of a run, and the one before it."""


def save(state: dict[str, Any], out: Path) -> None:
    """Write `out/state.pt` atomically, and keep the one before it."""
    path = out / NAME
    with files.writing(path) as part:
        with part.open("wb") as file:
            torch.save(state, file)
        if path.is_file():
            path.replace(out / PREVIOUS)


def exists(out: Path) -> bool:
    """Return whether a run has saved its state in a folder."""
    return any((out / name).is_file() for name in (NAME, PREVIOUS))


def load(out: Path) -> dict[str, Any]:
    """Read the last state of a run; the one before it, with a warning, if the last one is damaged.

    Raises:
        FileNotFoundError: If there is no state.
        ValueError: If all are damaged.
    """
    if not exists(out):
        raise FileNotFoundError(f"resume needs {out / NAME}, which does not exist; begin the run without resume")
    problem: Exception | None = None
    for path in (out / NAME, out / PREVIOUS):
        if not path.is_file():  # a kill between two renames leaves the one before
            continue
        try:
            _check(path)
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a dozen types on damaged files
            problem = problem or ValueError(f"{path} is damaged: {first_line(error)}")
            continue
        if problem:
            warnings.warn(f"{problem}; going on from {PREVIOUS}", stacklevel=2)
        return found
    assert problem is not None
    raise problem


def _check(path: Path) -> None:
    """Raise an error if a value was changed on disk. torch.load does not compare the checksums of the archive."""
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise ValueError(f"{name} differs from its checksum")


def shard(module: nn.Module, mesh: Any) -> nn.Module:
    """Shard every parameter over the processes of a mesh, in place (FSDP2, arXiv 2304.11277).

    The parameters of a layer in a `ModuleList` are gathered when that layer runs, all others when `module` runs.
    """
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
    for layer in (layer for layers in reversed(lists) for layer in layers):  # innermost first
        fully_shard(layer, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def collect(tree: Any, keep: bool = True) -> Any:
    """Return a tree of dicts and lists with whole tensors on the CPU in place of shards. Without `keep`: None.

    All processes must call it with the same tree.
    """
    if isinstance(tree, dict):
        return {key: collect(value, keep) for key, value in tree.items()}
    if isinstance(tree, list):
        return [collect(value, keep) for value in tree]
    if not isinstance(tree, DTensor):
        return tree
    tensor = tree.detach().full_tensor()  # one at a time: the whole model need not fit on a GPU
    return tensor.cpu().clone() if keep else None  # a clone, since it may be a piece of a larger storage


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the part of each tensor that this process holds. Writing to it writes to the tensor."""
    return [t.detach().to_local() if isinstance(t, DTensor) else t.detach() for t in tensors]


def fill_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a whole state. Each process keeps its part of the state of sharded parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def part(value: Any, parameter: Tensor) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        mesh = parameter.device_mesh
        return distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)

    parts = {i: {k: part(v, parameters[i]) for k, v in values.items()} for i, values in saved["state"].items()}
    optimizer.load_state_dict({**saved, "state": parts})
