"""Convolutions of decoders on a CPU: fewer multiplications, and feature maps that stay in the cache.

A decoder calls `enter` on its input. Without gradients, in float32 and on a CPU, the feature maps then are
channels_last, and the functions of this module compute them in strips of rows. Otherwise they compute the layers one
after another, as encoders always do: rounding must not change codes.

Winograd's products: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), here
F(4, 3) along columns. The points ±√½ and ±√2 in place of ±1 and ±2 keep the rounding errors as small as those of the
direct sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import tracing
from .blocks import FeatureMap, swish

STRIP = 2**19
"""Numbers of a strip of rows (2 MiB): large enough for fast products, small enough for the cache."""
BLOCK = 2**16
"""Numbers of a block whose moments are computed (256 KiB)."""
SMALLEST = 64 * 64
"""Fewest pixels for which transforming the weights pays."""
SLIGHT = 8
"""Fewest channels of a result for which transforming the input pays."""
TILE = 4
"""Rows that six products compute together, in place of twelve."""
ROOT = 2**0.5
TRANSFORM = torch.tensor(
    [
        [1, 0, 0],
        [-1 / 1.5, -ROOT / 3, -1 / 3],
        [-1 / 1.5, ROOT / 3, -1 / 3],
        [1 / 6, ROOT / 6, 1 / 3],
        [1 / 6, -ROOT / 6, 1 / 3],
        [0, 0, 1],
    ]
)
"""Three rows of taps → the taps of six products."""
SHARES = (-1, 1 + ROOT / 2, 1 - ROOT / 2, 0, 0, 0.5)
"""Multiples of the bias that, added to the six products, add the bias to all four rows."""


def enter(x: FeatureMap) -> FeatureMap:
    """Return `x` in the layout in which the functions of this module are fast, if they may be."""
    return x.contiguous(memory_format=torch.channels_last if _is_fast(x) else torch.contiguous_format)


def overwrites(x: Tensor) -> bool:
    """Return whether results may be overwritten: on a CPU, where memory is the limit, without gradients or a trace."""
    return x.device.type == "cpu" and not (
        torch.is_grad_enabled() or tracing.exporting() or torch.is_autocast_enabled("cpu")
    )


def _is_fast(x: Tensor) -> bool:
    return overwrites(x) and x.dtype == torch.float32


def _entered(x: FeatureMap) -> bool:
    return _is_fast(x) and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def normalize(x: FeatureMap, norm: nn.GroupNorm) -> FeatureMap:
    """Apply a group norm."""
    if not _entered(x):
        return norm(x)
    out = torch.empty_like(_rows(x))
    for item, result in zip(_rows(x), out, strict=True):
        scale, shift = _scale_and_shift(item, norm)
        torch.addcmul(shift, item, scale, out=result)
    return out.permute(0, 3, 1, 2)


def convolve(x: FeatureMap, conv: nn.Conv2d, norm: nn.GroupNorm, residual: FeatureMap | None = None) -> FeatureMap:
    """Return residual + conv(swish(norm(x))) for a 3×3 convolution that keeps the size.

    `residual` is overwritten if `x` has entered: a large result in new memory costs a page fault each 4 KiB.
    """
    if not _entered(x):
        if not overwrites(x):
            y = conv(swish(norm(x)))
            return y if residual is None else residual + y
        h = norm(x)
        y = conv(h.mul_(torch.sigmoid(h)))  # the same values as swish(h)
        return y if residual is None else y.add_(residual)
    batch, height, width, channels = _rows(x).shape
    fewer = height % TILE == 0 and height * width >= SMALLEST and conv.out_channels >= SLIGHT
    product = _Winograd(conv) if fewer else _Direct(conv)
    out = x.new_empty(batch, height, width, conv.out_channels) if residual is None else _rows(residual)
    step = max(1, STRIP // (width * channels) // TILE) * TILE
    for item, result in zip(_rows(x), out, strict=True):
        moments = _scale_and_shift(item, norm)
        for start in range(0, height, step):
            strip = _activated(item, start, min(height, start + step), *moments)
            product(strip, result[start : start + step], residual is not None)
    return out.permute(0, 3, 1, 2)


def upsample(x: FeatureMap, conv: nn.Conv2d) -> FeatureMap:
    """Apply a 3×3 convolution to `x` in twice the size, by nearest neighbors.

    A pixel occurs twice along each axis, and meets the sum of the taps on both: a transposed convolution, in which an
    output takes 2 × 2 products in place of 3 × 3.
    """
    if not _entered(x):
        return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    taps = _doubled(_doubled(conv.weight.permute(2, 3, 1, 0).contiguous(), 0), 1)
    return F.conv_transpose2d(x, taps.permute(2, 3, 0, 1), conv.bias, 2, 1)


def _doubled(taps: Tensor, axis: int) -> Tensor:
    """Return the four taps of a transposed convolution of stride 2 that three taps on doubled values amount to."""
    a, b, c = taps.unbind(axis)
    return torch.stack((c, b + c, a + b, a), axis)


def _rows(x: FeatureMap) -> Tensor:
    """Return a feature map as (batch, height, width, channels)."""
    return x.permute(0, 2, 3, 1)


def _scale_and_shift(x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift of each channel by which a group norm maps (height, width, channels).

    Squares are summed around the mean of each block, and blocks are joined in float64 (Chan et al., 1979).
    """
    channels = x.shape[-1]
    blocks = x.reshape(-1, channels).split(max(1, BLOCK // channels))
    counts = torch.tensor([len(block) for block in blocks], dtype=torch.float64)[:, None, None]
    means = [block.mean(0) for block in blocks]
    squares = [(block - mean).square_().sum(0) for block, mean in zip(blocks, means, strict=True)]
    by_group = (len(blocks), norm.num_groups, -1)
    mean, square = (torch.stack(values).double().reshape(by_group) for values in (means, squares))
    total = counts.sum() * mean.shape[2]
    center = (counts * mean).sum((0, 2), keepdim=True) / total
    variance = (square + counts * (mean - center).square()).sum((0, 2), keepdim=True) / total
    scale = torch.rsqrt(variance + norm.eps).expand(1, *mean.shape[1:])[0]
    if norm.affine:
        scale = scale * norm.weight.reshape(scale.shape)
    shift = -center[0] * scale
    if norm.affine:
        shift = shift + norm.bias.reshape(scale.shape)
    return scale.float().flatten(), shift.float().flatten()


def _activated(x: Tensor, start: int, end: int, scale: Tensor, shift: Tensor) -> Tensor:
    """Return swish(x · scale + shift) of some rows, and of one above and below, which are 0 outside the image."""
    low, high = max(0, start - 1), min(len(x), end + 1)
    out = x.new_empty(end - start + 2, *x.shape[1:])
    inner = out[low - start + 1 : high - start + 1]
    F.silu(torch.addcmul(shift, x[low:high], scale, out=inner), inplace=True)
    if low == start:
        out[0] = 0
    if high == end:
        out[-1] = 0
    return out


class _Direct:
    """The convolution of rows of one image, by the library."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.weight, self.bias = conv.weight.contiguous(memory_format=torch.channels_last), conv.bias

    def __call__(self, x: Tensor, out: Tensor, add: bool) -> None:
        y = F.conv2d(x.permute(2, 0, 1)[None], self.weight, self.bias, padding=(0, 1))[0].permute(1, 2, 0)
        _ = out.add_(y) if add else out.copy_(y)


class _Winograd:
    """The convolution of rows of one image, with six products for each four rows in place of twelve."""

    def __init__(self, conv: nn.Conv2d) -> None:
        rows = conv.weight.permute(2, 0, 3, 1).contiguous()
        kernels = (TRANSFORM @ rows.flatten(1)).unflatten(1, rows.shape[1:])
        self.kernels = [kernel.permute(0, 2, 1)[:, :, None] for kernel in kernels]  # channels_last
        self.biases = [None] * len(kernels) if conv.bias is None else [share * conv.bias for share in SHARES]

    def __call__(self, x: Tensor, out: Tensor, add: bool) -> None:
        """Write (4·tiles, width, channels), or add them, from two rows more."""
        tiles = len(out) // TILE
        r0, r1, r2, r3, r4, r5 = (x[i::TILE][:tiles] for i in range(6))
        even, odd = torch.sub(r4, r2, alpha=2), torch.sub(r3, r1, alpha=2)
        more_even, more_odd = torch.sub(r4, r2, alpha=0.5), torch.sub(r3, r1, alpha=0.5)
        inputs = (
            (r0 + r4).sub_(r2, alpha=2.5),
            torch.add(even, odd, alpha=ROOT / 2), even.sub_(odd, alpha=ROOT / 2),
            torch.add(more_even, more_odd, alpha=ROOT), more_even.sub_(more_odd, alpha=ROOT),
            (r1 + r5).sub_(r3, alpha=2.5),
        )  # fmt: skip
        m0, m1, m2, m3, m4, m5 = (
            F.conv2d(rows[:, None].permute(0, 3, 1, 2), kernel, bias, padding=(0, 1)).permute(0, 2, 3, 1)[:, 0]
            for rows, kernel, bias in zip(inputs, self.kernels, self.biases, strict=True)
        )
        even, odd, more_even, more_odd = m1 + m2, m1 - m2, m3 + m4, m3 - m4
        y = out.view(tiles, TILE, *out.shape[1:]).unbind(1)
        sums = m0.add_(even), odd * (ROOT / 2), even * 0.5, m5.add_(odd, alpha=ROOT / 4)
        for i, (some, more) in enumerate(zip(sums, (more_even, more_odd, more_even, more_odd), strict=True)):
            torch.add(some.add_(y[i]) if add else some, more, alpha=ROOT**i, out=y[i])
