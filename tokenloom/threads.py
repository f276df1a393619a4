"""The number of threads that PyTorch computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def limit(count: int = 1) -> Iterator[None]:
    """Compute with `count` threads inside the block; restore the previous number after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_fork_safe() -> None:
    """Let forked processes compute with one thread, as the workers of a DataLoader do.

    They have none of their parent's threads, and OpenMP would wait for those forever.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
