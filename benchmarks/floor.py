"""The least time of a network: its multiplications at the best rate that this processor reaches."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

CHANNELS, SIZE, SIDE = 256, 64, 1024
"""Of the 3×3 convolution and of the matrix product whose rates are measured."""


def products(work: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that computes as many products as `work`, in the form that is fastest on this processor.

    Products are those of convolutions and matrices that `work` computes, after all savings. Recurrent networks are not
    counted.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    form, each = _fastest()
    count = counter.get_total_flops() / each

    @torch.no_grad()
    def floor() -> None:
        for _ in range(round(count)):
            form()

    return floor


@functools.cache
@torch.no_grad()
def _fastest() -> tuple[Callable[[], Any], int]:
    """Return the fastest of a few large products, and its operations."""
    x, weight = torch.randn(1, CHANNELS, SIZE, SIZE), torch.randn(CHANNELS, CHANNELS, 3, 3)
    last = torch.channels_last
    x_last, weight_last = x.contiguous(memory_format=last), weight.contiguous(memory_format=last)
    matrix = torch.randn(SIDE, SIDE)
    operations = 2 * 9 * CHANNELS**2 * SIZE**2
    forms = [
        (lambda: F.conv2d(x, weight, padding=1), operations),
        (lambda: F.conv2d(x_last, weight_last, padding=1), operations),
        (lambda: matrix @ matrix, 2 * SIDE**3),
    ]
    return max(forms, key=lambda form: form[1] / _seconds(form[0]))


def _seconds(function: Callable[[], Any]) -> float:
    """Return the least process time of several calls."""
    times = []
    for _ in range(9):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)
