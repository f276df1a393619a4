"""Reproducible training of the small classifiers, and their cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from tokenloom import files, progress, threads

Progress = Callable[[float], None]
"""Called after each training step with the share of the training that is done."""
Network = TypeVar("Network", bound=nn.Module)


@contextmanager
def reproducible(seed: int = 0) -> Iterator[None]:
    """Compute on one thread, with a local random state that starts from `seed`."""
    with threads.limit(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def batches(items: int, size: int, epochs: int) -> Iterator[Tensor]:
    """Yield the item numbers of each batch, in a new random order for every epoch."""
    for _ in range(epochs):
        yield from torch.randperm(items).split(size)


def fit(
    network: nn.Module,
    rows: Iterable[Tensor],
    loss: Callable[[Tensor], Tensor],
    steps: int,
    *,
    rate: float,
    weight_decay: float,
    warmup: float,
    progress: Progress | None = None,
) -> None:
    """Train a network in place with AdamW and the 1cycle schedule.

    Args:
        network: Network in training mode.
        rows: Item numbers of each step.
        loss: Maps item numbers to a scalar.
        steps: Number of steps.
        rate: Peak learning rate.
        weight_decay: Of AdamW.
        warmup: Share of the steps before the peak.
        progress: Called after each step.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=warmup)
    for step, some in enumerate(rows, 1):
        value = loss(some)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress(step / steps)


def cached(name: str, network: Network, train: Callable[[], Network], folder: str | Path | None = None) -> Network:
    """Return a trained network in evaluation mode, from the cache or newly trained.

    Args:
        name: Name of the file. It must change with everything that changes the weights.
        network: Untrained network, for weights from the cache.
        train: Returns the trained network if the cache does not have it.
        folder: Folder of the cache; default: the user's.
    """
    path = Path(folder or files.cache_folder()) / f"{name}.safetensors"
    if path.is_file():
        network.load_state_dict(load_file(path))
        return network.eval()
    network = train()
    files.write(path, to_bytes({key: value.contiguous() for key, value in network.state_dict().items()}))
    return network.eval()


@contextmanager
def training_bar(text: str) -> Iterator[Progress]:
    """Show the progress of a training in percent."""
    with progress.bar(text, 100, "%") as advance:
        shown = 0.0

        def show(share: float) -> None:
            nonlocal shown
            advance(100 * share - shown)
            shown = 100 * share

        yield show
