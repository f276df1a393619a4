"""How far codes look into the signal, and samples into the codes, by perturbation.

A perturbation that no codeword notices is missed, so a measured reach is at most the true one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenloom.codecs.types import Codes

from . import signals
from .patient import Patient
from .records import Inapplicable

GRIDS = (9, 17, 33, 65, 129)
"""Codes along each axis of the probes, an odd number."""
TRIALS, FEWER = 4, 2
"""Perturbations of a probe, each of another signal, and of its codes."""
MARGIN = 0.75
"""Share of half a probe that a bounded reach stays within. The weakest effects of an unbounded one may go unnoticed."""
NOTICED = 1e-6
"""Smallest change of a sample that counts."""


@dataclass(frozen=True)
class Reach:
    """Where a change in the middle is noticed, along each axis."""

    before: tuple[int, ...]
    """Positions before the change that notice it."""
    after: tuple[int, ...]
    bounded: bool
    """Whether the probe is larger than the reach."""
    probe: int
    """Codes along each axis of the probe."""

    @property
    def most(self) -> int:
        return max(*self.before, *self.after)


Measure = Callable[[Patient, int], tuple[tuple[int, ...], tuple[int, ...]]]


def encoder(patient: Patient) -> Reach:
    """Return how many codes before and after a changed cell of one stride change.

    Raises:
        Inapplicable: If codes have no place in the signal.
    """
    patient.require_grid()
    return _grow(patient, _encoder, (1,) * len(patient.stride))


def _encoder(patient: Patient, grid: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the codes before and after the changed cell that change, along each axis."""
    stride, middle = patient.stride, grid // 2
    size = tuple(grid * s for s in stride)
    x = patient.stack(size, TRIALS)
    changed = x.clone()
    cell = tuple(slice(middle * s, (middle + 1) * s) for s in stride)
    changed[(..., *cell)] = signals.noise(patient.spec, stride, TRIALS, seed=grid).round()  # the ends of the range
    indices = patient.encode(torch.cat([x, changed])).indices.cpu()
    return _extent((indices[:TRIALS] != indices[TRIALS:]).flatten(0, 1).any(0), middle, middle)


def decoder(patient: Patient) -> Reach:
    """Return how many samples before and after the cell of a changed code change.

    Raises:
        Inapplicable: If codes have no place in the signal, or not all codes decode.
    """
    patient.require_grid()
    if not patient.spec.total:
        raise Inapplicable("not all codes of this codec decode")
    return _grow(patient, _decoder, patient.stride)


def _grow(patient: Patient, measure: Measure, step: tuple[int, ...]) -> Reach:
    """Measure on probes of growing size, until one is larger than the reach or the time of the check is over."""
    found = None
    for grid in patient.cases(GRIDS):
        before, after = measure(patient, grid)
        bounded = all(n < MARGIN * (grid // 2) * s for n, s in zip((*before, *after), step * 2, strict=True))
        found = Reach(before, after, bounded, grid)
        if bounded:
            break
    assert found is not None  # GRIDS is not empty
    return found


def _decoder(patient: Patient, grid: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the samples before and after the cell that change, along each axis."""
    stride, middle = patient.stride, grid // 2
    codes = patient.encode(patient.stack(tuple(grid * s for s in stride), FEWER))
    indices = codes.indices.clone()
    place = (slice(None), slice(None), *([middle] * len(stride)))
    sizes = torch.tensor(patient.spec.codebook_sizes[: indices.shape[1]], device=indices.device)
    jump = (sizes // torch.tensor([[2], [3]], device=indices.device)).clamp_min(1)  # (FEWER, quantizers)
    indices[place] = (indices[place] + jump) % sizes
    other = Codes(indices, codes.sizes, codes.lengths, codes.side)
    difference = (patient.decode(codes) - patient.decode(other)).abs() > NOTICED
    first = torch.tensor([middle * step for step in stride])
    return _extent(difference.flatten(0, 1).any(0), first, first + torch.tensor(stride) - 1)


def along(hit: Tensor, axis: int) -> Tensor:
    """Return the places along one axis that have a hit at any place of the other, int64 (places,) on the CPU."""
    line = hit if hit.ndim == 1 else hit.any(1 - axis)
    return line.nonzero()[:, 0].cpu()


def _extent(hit: Tensor, first: Tensor | int, last: Tensor | int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how far hits lie before `first` and after `last` along each axis."""
    before, after = [], []
    starts, ends = (torch.as_tensor(bound).expand(hit.ndim).tolist() for bound in (first, last))
    for axis in range(hit.ndim):
        places = along(hit, axis).tolist()
        before.append(max(0, starts[axis] - min(places, default=starts[axis])))
        after.append(max(0, max(places, default=ends[axis]) - ends[axis]))
    return tuple(before), tuple(after)
