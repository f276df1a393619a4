"""Context model: the probability of each code given earlier codes, bit-identical on every machine.

Channels are coded in groups, coarse to fine. The positions of the first group are coded in the seven passes of Adam7
(W3C PNG specification, 8.2), those of the others in the two passes of a checkerboard (He et al., arXiv 2103.15306). A
pass evaluates a small network once for all its codes. A code is an integer around 0 with a discretized logistic
distribution, whose mean and scale the network predicts.

Range coding needs the same probabilities in the encoder and the decoder, but floating-point sums differ between
machines. Outside training the network therefore computes with integers (Ballé et al., "Integer networks for data
compression", 2019). They are stored as float64. Every sum stays below 2^53, so it is exact in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ADAM7 = ((0, 0, 8, 8, 8), (0, 4, 8, 8, 4), (4, 0, 8, 4, 4), (0, 2, 4, 4, 2), (2, 0, 4, 2, 2), (0, 1, 2, 2, 1),
         (1, 0, 2, 1, 1))  # fmt: skip
"""Per pass: first row and column, distance between rows and columns, and distance of the known neighbors."""
FRACTION = 8
"""Bits after the binary point of activations."""
WEIGHT_FRACTION = 12
"""Bits after the binary point of weights."""
SCALES, SCALES_PER_OCTAVE, SMALLEST_SCALE = 44, 4, -4
"""Scales of the distribution are 2^(−4 + i/4) for i below 44."""
MEANS = 8
"""Means are multiples of 1/8."""
LIMIT = 2.0**20
"""Largest activation as an integer; its value is 4,096. With weights up to 16, a sum of 2^17 terms is exact."""
ONE = 2.0**FRACTION
PLANES = 4
"""Number of further input planes: inside the image, already known, quality, distance of the known neighbors."""
KNOWN_PLANE = 1
MAX_BOUND = 160
"""Largest magnitude of a code."""
CHUNK = 2**17
"""Most codes whose probabilities are in memory at once."""

Lattice = tuple[int, int, int, int]
"""First row and column, and distance between rows and columns."""
EVERYWHERE: Lattice = (0, 0, 1, 1)

SPARSE = 16
"""Fewest positions per position of a lattice for which a first layer is computed at neighbors of the lattice only."""

Coder = Callable[[np.ndarray, slice, np.ndarray], np.ndarray]
"""(probabilities (n, entries), channels, mask (height, width) of positions) → n symbols ≥ 0, channel by channel."""


class Predictor(nn.Module):
    """Network that maps `known` channels and the planes to the mean and log2 scale of `out` channels.

    `direct` adds a linear path from inputs to outputs, since a block's mean is close to that of its neighbors.
    """

    def __init__(self, known: int, out: int, width: int, kernel: int, direct: bool) -> None:
        super().__init__()
        self.out = out
        self.first = nn.Conv2d(known + PLANES, width, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2 * out, 1)
        self.direct = nn.Conv2d(known + PLANES, 2 * out, kernel, bias=False) if direct else None
        for layer in (self.last, self.direct):
            for parameter in () if layer is None else layer.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "batch known height width"], dilation: int
    ) -> Float[Tensor, "batch params height width"]:
        """Compute in floating point, for training."""
        hidden = F.relu(_conv(x, self.first.weight, self.first.bias, dilation))
        out = self.last(F.relu(self.second(hidden)))
        return out if self.direct is None else out + _conv(x, self.direct.weight, None, dilation)

    def exact(self, x: Tensor, dilation: int, lattice: Lattice) -> Tensor:
        """Compute with integers in float64 at the positions of a lattice, (batch, params, rows, columns).

        Inputs and outputs are in units of 2^−FRACTION.
        """
        if lattice[2] * lattice[3] < SPARSE:
            hidden = _rectified(_conv(x, *_integers(self.first), dilation))
            hidden = _rectified(_conv(hidden, *_integers(self.second), 1, lattice))
        else:  # only where the second layer needs it, in blocks of 3 × 3
            around, inside = _neighborhoods(x, lattice)
            hidden = _rectified(_conv_at(x, *_integers(self.first), dilation, *around)) * inside
            hidden = _rectified(F.conv2d(hidden, *_integers(self.second), stride=3))
        total = _conv(hidden, *_integers(self.last), 1)
        if self.direct is not None:
            total = total + _conv(x, *_integers(self.direct), dilation, lattice)
        return torch.floor(total * 2.0**-WEIGHT_FRACTION + 0.5)

    def exact_at(self, total: Tensor, where: Tensor) -> Tensor:
        """Do the same at some positions, bool (height, width), from the sums of the first layer: (params, n)."""
        hidden = F.pad(_rectified(total)[0], (1, 1, 1, 1))
        rows, columns = where.nonzero(as_tuple=True)
        offsets = torch.arange(3)
        patches = hidden[:, rows + offsets[:, None, None], columns + offsets[:, None]].flatten(0, 2)
        (second, bias), (last, shift) = _integers(self.second), _integers(self.last)
        hidden = _rectified(torch.addmm(bias[:, None], second.flatten(1), patches))
        return torch.floor(torch.addmm(shift[:, None], last.flatten(1), hidden) * 2.0**-WEIGHT_FRACTION + 0.5)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, lattice: Lattice = EVERYWHERE) -> Tensor:
    row, column, rows, columns = lattice
    margin = weight.shape[-1] // 2 * dilation
    if lattice != EVERYWHERE:
        x, margin = F.pad(x, (margin,) * 4)[..., row:, column:], 0
    return F.conv2d(x, weight, bias, stride=(rows, columns), padding=margin, dilation=dilation)


def _neighborhoods(x: Tensor, lattice: Lattice) -> tuple[list[Tensor], Tensor]:
    """Return the rows and the columns of the 3 × 3 neighborhoods of a lattice, and whether they are in the image."""
    starts, steps, sizes = lattice[:2], lattice[2:], x.shape[2:]
    axes = [
        (torch.arange(start, size, step)[:, None] + torch.arange(-1, 2)).flatten()
        for start, step, size in zip(starts, steps, sizes, strict=True)
    ]
    rows, columns = ((axis >= 0) & (axis < size) for axis, size in zip(axes, sizes, strict=True))
    clamped = [axis.clamp(0, size - 1) for axis, size in zip(axes, sizes, strict=True)]
    return clamped, rows[:, None] & columns


def _conv_at(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return a convolution at these rows and columns only."""
    reach = (torch.arange(weight.shape[-1]) - weight.shape[-1] // 2) * dilation
    x = F.pad(x[0], (int(reach[-1]),) * 4)
    rows, columns = (axis + reach[-1] + reach[:, None] for axis in (rows, columns))
    patches = x[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(0, 2)
    total = torch.tensordot(weight.flatten(1), patches, 1)[None]
    return total if bias is None else total + bias[:, None, None]


def _integers(layer: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Return weights and biases as integers in float64, bounded so that no sum exceeds 2^53."""
    weight = layer.weight.detach().cpu().double().clamp(-16, 16)
    if layer.bias is None:
        return torch.round(weight * 2**WEIGHT_FRACTION), None
    bias = layer.bias.detach().cpu().double().clamp(-4096, 4096)
    return torch.round(weight * 2**WEIGHT_FRACTION), torch.round(bias * 2 ** (WEIGHT_FRACTION + FRACTION))


def _rectified(total: Tensor) -> Tensor:
    return torch.floor(total * 2.0**-WEIGHT_FRACTION + 0.5).clamp(0, LIMIT)


class ContextModel(nn.Module):
    """Predictors of all channel groups, and the order in which codes are coded.

    Args:
        bounds: Largest magnitude of the codes of each channel. A channel has 2 · bound + 1 entries.
        groups: Number of channels of each group, in coding order. All channels of a group have the same bound.
        width: Hidden channels.
    """

    gain: Tensor

    def __init__(self, bounds: tuple[int, ...], groups: list[int], width: int) -> None:
        super().__init__()
        self.bounds = tuple(bounds)
        ends = np.cumsum(groups).tolist()
        if ends[-1] != len(bounds) or any(len({*bounds[e - g : e]}) != 1 for g, e in zip(groups, ends, strict=True)):
            raise ValueError(f"groups must split the {len(bounds)} channels into runs of equal bounds, got {groups}")
        self.slices = [slice(end - size, end) for size, end in zip(groups, ends, strict=True)]
        self.predictors = nn.ModuleList(
            Predictor(s.stop, s.stop - s.start, width, 3 if i else 5, direct=i == 0) for i, s in enumerate(self.slices)
        )
        self.register_buffer("gain", torch.tensor([2.0 ** -max(0, b.bit_length() - 3) for b in bounds])[:, None, None],
                             persistent=False)  # fmt: skip

    @property
    def least_bits(self) -> float:
        """Lower bound on the bits per position of any stream: every code is the most probable one."""
        return -len(self.bounds) * math.log2(_table().max())

    # -- training -----------------------------------------------------------------------------

    def bits(self, noisy: Tensor, codes: Tensor, quality: Tensor) -> Tensor:
        """Return the bits of each item, (batch,), with gradients.

        Args:
            noisy: Unrounded codes plus uniform noise (Ballé et al., arXiv 1611.01704, section 3).
            codes: Rounded codes (batch, channels, height, width) with straight-through gradients.
            quality: (batch,), from about −2 to 2.
        """
        total = noisy.new_zeros(len(noisy))
        scaled = codes * self.gain
        for group, channels in enumerate(self.slices):
            for mask, before, distance, _ in _passes(group, *codes.shape[-2:]):
                known, mask = (torch.from_numpy(m).to(codes.device) for m in (before, mask))
                inputs = self._inputs(scaled, channels, known.to(codes.dtype), quality[:, None, None, None], distance)
                mean, scale = self.predictors[group](inputs, distance)[..., mask].float().chunk(2, 1)
                total = total - _log2_probability(noisy[:, channels][..., mask], mean, scale).sum((1, 2))
        return total

    def _inputs(
        self, scaled: Tensor, channels: slice, known: Tensor, quality: Tensor | float, distance: int, one: float = 1.0
    ) -> Tensor:
        """Stack the codes of earlier groups, the known codes of this group, and the planes."""
        plane = torch.full_like(scaled[:, :1], one)
        current = scaled[:, channels] * known
        planes = [plane, plane * known, plane * quality, plane * math.log2(distance)]
        return torch.cat([scaled[:, : channels.start], current, *planes], 1)

    # -- coding -------------------------------------------------------------------------------

    @torch.no_grad()
    def code(self, grid: tuple[int, int], quality: float, coder: Coder) -> np.ndarray:
        """Visit all codes in coding order. `coder` receives probabilities, and writes or reads the symbols.

        Args:
            grid: Height and width in codes.
            quality: A multiple of 2^−FRACTION.
            coder: Encoder or decoder of symbols; returns the symbols.

        Returns:
            Integers (channels, height, width) around 0.
        """
        codes = torch.zeros(1, len(self.bounds), *grid, dtype=torch.float64)
        for group, channels in enumerate(self.slices):
            bound = self.bounds[channels.start]
            parameters = self._coarse if group == 0 else self._checkerboard
            for params, mask in parameters(group, codes, quality):
                where = torch.from_numpy(mask)
                for p, first, last in _distributions(params.numpy(), bound):
                    part = slice(channels.start + first, channels.start + last)
                    symbols = coder(p, part, mask).reshape(last - first, -1) - bound
                    codes[0, part, where] = torch.from_numpy(symbols.astype(np.float64))
        return codes[0].numpy().astype(np.int64)

    def _coarse(self, group: int, codes: Tensor, quality: float) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield for each pass of the first group integer parameters (2 · channels, n), and the mask of their positions.

        The codes of a pass must be there before the next one is taken.
        """
        for mask, before, distance, lattice in _passes(group, *codes.shape[2:]):
            if mask.any():
                channels, known = self.slices[group], torch.from_numpy(before).double()
                inputs = self._inputs(self._scaled(codes, channels.stop), channels, known, quality, distance, ONE)
                yield self.predictors[group].exact(inputs, distance, lattice)[0].flatten(1), mask

    def _checkerboard(self, group: int, codes: Tensor, quality: float) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Do the same for a later group. Its second pass adds what is new to the sums of the first layer."""
        channels, predictor = self.slices[group], self.predictors[group]
        weight, bias = _integers(predictor.first)
        new = [*range(channels.start, channels.stop), channels.stop + KNOWN_PLANE]
        old = [i for i in range(weight.shape[1]) if i not in new]
        total = None
        for mask, before, distance, _ in _passes(group, *codes.shape[2:]):
            known = torch.from_numpy(before).double()
            inputs = self._inputs(self._scaled(codes, channels.stop), channels, known, quality, distance, ONE)
            if total is None:
                total = _conv(inputs[:, old], weight[:, old], bias, distance)
            else:
                total += _conv(inputs[:, new], weight[:, new], None, distance)
            if mask.any():
                yield predictor.exact_at(total, torch.from_numpy(mask)), mask

    def _scaled(self, codes: Tensor, channels: int) -> Tensor:
        return codes[:, :channels] * (self.gain[:channels].cpu().double() * ONE)


def _passes(group: int, height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray, int, Lattice]]:
    """Yield for each pass the mask of its positions, the mask of known positions, and the distance of neighbors.

    The last value is the smallest lattice that holds the positions of the pass.
    """
    known = np.zeros((height, width), dtype=bool)
    if group == 0:
        for row, column, rows, columns, distance in ADAM7:
            mask = np.zeros_like(known)
            mask[row::rows, column::columns] = True
            yield mask, known.copy(), distance, (row, column, rows, columns)
            known |= mask
        return
    parity = np.add.outer(np.arange(height), np.arange(width)) % 2 == 1
    yield ~parity, known, 1, EVERYWHERE
    yield parity, ~parity, 1, EVERYWHERE


def _log2_probability(x: Tensor, mean: Tensor, log2_scale: Tensor) -> Tensor:
    """Return log2 of the probability of x ± ½ under a logistic distribution, plus 2^−30."""
    scale = torch.exp2(-log2_scale.clamp(SMALLEST_SCALE, SMALLEST_SCALE + (SCALES - 1) / SCALES_PER_OCTAVE))
    away = (x - mean).abs()
    return torch.log2(torch.sigmoid((0.5 - away) * scale) - torch.sigmoid((-0.5 - away) * scale) + 2.0**-30)


def _distributions(params: np.ndarray, bound: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Convert integer means and log2 scales (2 · channels, n) to probabilities, several channels at a time.

    Yields probabilities (channels · n, entries), the first channel, and the channel after the last one.
    """
    mean, log2_scale = np.split(params, 2)
    channels, positions = mean.shape
    mean = np.floor(mean * (MEANS / 2**FRACTION) + 0.5)
    center = np.floor(mean / MEANS + 0.5)
    fraction = (mean - center * MEANS).astype(np.int64) + MEANS // 2
    center = center.clip(-bound, bound).astype(np.int64)
    scale = np.floor((log2_scale / 2**FRACTION - SMALLEST_SCALE) * SCALES_PER_OCTAVE + 0.5)
    scale = scale.clip(0, SCALES - 1).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(_table(), 2 * bound + 1, axis=2)
    start = windows.shape[2] // 2 - center
    step = max(1, CHUNK // positions)
    for first in range(0, channels, step):
        part = slice(first, first + step)
        yield (
            windows[scale[part].ravel(), fraction[part].ravel(), start[part].ravel()],
            first,
            min(first + step, channels),
        )


@cache
def _table() -> np.ndarray:
    """Return the probability of each offset from the rounded mean: (scales, fractions, offsets), float64.

    Only sums, products, quotients and square roots are used. IEEE 754 defines their rounding, but not that of `exp`.
    """
    inverse = [2.0**-SMALLEST_SCALE]
    while len(inverse) < SCALES:
        inverse.append(inverse[-1] / math.sqrt(math.sqrt(2.0)))
    scale = np.array(inverse)[:, None, None]
    fractions = (np.arange(MEANS + 1) - MEANS // 2) / MEANS
    away = np.abs(np.arange(-2 * MAX_BOUND, 2 * MAX_BOUND + 1) - fractions[:, None])
    return _logistic((0.5 - away) * scale) - _logistic((-0.5 - away) * scale) + 2.0**-30


def _logistic(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(−x)). exp(−|x|) is computed as (1 + |x| / 2^20)^(−2^20)."""
    power = 1.0 / (1.0 + np.minimum(np.abs(x), 60.0) / 2.0**20)
    for _ in range(20):
        power = power * power
    return np.where(x < 0, power / (1.0 + power), 1.0 / (1.0 + power))
