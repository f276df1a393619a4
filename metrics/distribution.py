"""The kernel distance (KID) between real and decoded signals, in fixed features that need no network.

The squared maximum mean discrepancy of Bińkowski et al. 2018 (arXiv 1801.01401): 0 in expectation where both sets come
from one distribution, and as an unbiased estimate at times slightly below. Features are statistics that tell blurred,
noisy and sharpened signals from real ones: of 8x8 block DCTs of pictures, of mel spectrograms of sounds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from tokenloom.codecs import media

from . import audio as sounds
from .errors import Unmeasurable

BLOCK = 8
BANDS = ((0, 0), (1, 1), (2, 3), (4, 6), (7, 14))
"""Bands of chroma frequencies: the lowest and highest u + v of the coefficients of a block."""
MEL = {"frame_seconds": 0.032, "n_mels": 40, "floor": 1e-4}
FLOOR = 0.05
"""A feature that varies less than this among the real signals (in natural logarithms) counts as varying by this."""
ROWS = 2048
"""Rows of a kernel matrix computed at once."""

DISTANCE = (
    "unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, d = number of features "
    "(arXiv 1801.01401); each feature standardised by mean and standard deviation of the real set, the latter at least "
    f"{FLOOR}; a signal is never compared with its own reconstruction; 0 where the sets cannot be told apart, "
    "may fall slightly below"
)
BLOCK_DCT = (
    "pictures rounded to 8 bits, YCbCr of ITU-R BT.601 in levels of 0 to 255, orthonormal 8x8 DCT-II of every whole "
    "block from the top left corner, level 128 taken off; ln(|coefficient| + 1): mean and standard deviation over "
    "blocks of the 64 luma coefficients, and of Cb and Cr averaged in five bands of u + v: "
    + ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in BANDS)
)
MEL_STATISTICS = (
    f"natural logarithm of the mel magnitude spectrogram (HTK scale, {MEL['n_mels']} bands from 0 to half the sample "
    f"rate, Hann frames of the smallest power of two that lasts {MEL['frame_seconds']} s, hop a quarter, floor "
    f"{MEL['floor']:g} of full scale): mean and standard deviation over frames of every band, and the root mean square "
    "of its differences to the next frame and to the next band; mean over channels"
)


# -- features ------------------------------------------------------------------------------------


def block_dct(x: Tensor) -> Tensor:
    """What BLOCK_DCT says of a picture float32 (3, height, width) in [0, 1] → (148,) float64.

    Raises Unmeasurable where a side is shorter than a block.
    """
    height, width = (n // BLOCK for n in x.shape[-2:])
    if not height or not width:
        raise Unmeasurable(f"a side is shorter than a block of {BLOCK} pixels")
    planes = _ycbcr(media.to_uint8(x.detach().float().cpu()).double()) - 128
    planes = planes[:, : height * BLOCK, : width * BLOCK]
    blocks = planes.unflatten(2, (width, BLOCK)).unflatten(1, (height, BLOCK)).transpose(2, 3).flatten(1, 2)
    basis = _dct()
    logs = (basis @ blocks @ basis.T).abs().add(1).log()  # (3, blocks, 8, 8)
    order = torch.arange(BLOCK)[:, None] + torch.arange(BLOCK)
    chroma = [logs[1:, :, (order >= low) & (order <= high)].mean(2) for low, high in BANDS]
    luma, chroma = logs[0].flatten(1), torch.stack(chroma, 2)
    parts = (luma.mean(0), luma.std(0, correction=0), chroma.mean(1), chroma.std(1, correction=0))
    return torch.cat([part.flatten() for part in parts])


def mel_statistics(wave: Tensor, sample_rate: int) -> Tensor:
    """What MEL_STATISTICS says of a sound float32 (channels, samples) in [-1, 1] → (159,) float64."""
    mel = sounds.log_mel(wave.detach().cpu(), sample_rate, **MEL)  # (channels, bands, frames)
    in_time, in_frequency = mel.diff(dim=2), mel.diff(dim=1)
    change = in_time.square().sum(2) / max(in_time.shape[2], 1)  # a single frame has no change
    parts = (mel.mean(2), mel.std(2, correction=0), change.sqrt(), in_frequency.square().mean(2).sqrt())
    return torch.cat([part.mean(0) for part in parts])


def _ycbcr(x: Tensor) -> Tensor:
    """RGB levels (3, …) → Y, Cb, Cr of BT.601, full range."""
    matrix = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    offset = x.new_tensor([0.0, 128.0, 128.0])
    return torch.tensordot(x.new_tensor(matrix), x, 1) + offset.view(3, *[1] * (x.ndim - 1))


@functools.cache
def _dct() -> Tensor:
    """(8, 8) float64, rows are the basis of the orthonormal DCT-II."""
    k, n = torch.arange(BLOCK).double()[:, None], torch.arange(BLOCK).double()
    basis = torch.cos(math.pi * (2 * n + 1) * k / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


# -- the distance --------------------------------------------------------------------------------


def kid(real: Tensor, fake: Tensor, *, paired: bool = False) -> float:
    """Squared maximum mean discrepancy between two sets of features (n, d) and (m, d), unbiased, in float64.

    paired  row i of `fake` was made from row i of `real` (its reconstruction): the two are left out of the mean over
            pairs, which would be biased towards 0 otherwise (Gretton et al. 2012, eq. 3)
    Raises Unmeasurable with fewer than 2 rows, ValueError where the shapes do not go together.
    """
    x, y = standardised(real, fake, paired)
    n, m = len(x), len(y)
    crossed = _total(x, y)
    crossed = (crossed - float(_kernel_of_pairs(x, y).sum())) / (n * (n - 1)) if paired else crossed / (n * m)
    within = [(_total(z, z) - float(_kernel_of_pairs(z, z).sum())) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return sum(within) - 2 * crossed


def bootstrap(
    real: Tensor, fake: Tensor, *, paired: bool = False, resamples: int = 1000, seed: int = 0
) -> Tensor:  # fmt: skip
    """(resamples,) float64: `kid` of rows drawn with replacement, a row never compared with itself drawn twice.

    Paired sets are drawn together; the same seed draws the same rows, so that the difference between two sets of
    equal size can be taken draw by draw. The standardisation stays that of the whole real set.
    """
    x, y = standardised(real, fake, paired)
    generator = torch.Generator().manual_seed(seed)
    u = _draws(len(x), resamples, generator)
    v = u if paired else _draws(len(y), resamples, generator)
    crossed = _kernel(x, y)
    crossed = _mean_of_others(u, crossed) if paired else ((u @ crossed) * v).sum(1) / (len(x) * len(y))
    return _mean_of_others(u, _kernel(x, x)) + _mean_of_others(v, _kernel(y, y)) - 2 * crossed


def interval(samples: Tensor, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of what `bootstrap` gave, its undefined draws (one row alone, n times) left out."""
    known = samples[samples.isfinite()]
    if not len(known):
        raise Unmeasurable("no draw held two different signals")
    low, high = known.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=known.dtype)).tolist()
    return low, high


def standardised(real: Tensor, fake: Tensor, paired: bool = False) -> tuple[Tensor, Tensor]:
    """Both sets in float64, each feature with mean 0 and standard deviation 1 over the real set (see FLOOR)."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"features are (items, d), not {tuple(real.shape)} and {tuple(fake.shape)}")
    if paired and len(real) != len(fake):
        raise ValueError(f"{len(real)} real and {len(fake)} decoded signals are not paired")
    if min(len(real), len(fake)) < 2:
        raise Unmeasurable(f"{min(len(real), len(fake))} signals; a distance between sets wants 2")
    real, fake = real.double(), fake.double()
    mean, std = real.mean(0), real.std(0, correction=0).clamp_min(FLOOR)
    return (real - mean) / std, (fake - mean) / std


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_of_pairs(x: Tensor, y: Tensor) -> Tensor:
    """The diagonal of `_kernel`."""
    return ((x * y).sum(1) / x.shape[1] + 1) ** 3


def _total(x: Tensor, y: Tensor) -> float:
    """The sum of `_kernel`, which is never held as a whole."""
    return math.fsum(float(_kernel(some, y).sum()) for some in x.split(ROWS))


def _draws(n: int, resamples: int, generator: torch.Generator) -> Tensor:
    """(resamples, n) float64: how often each of n rows was drawn."""
    rows = torch.randint(n, (resamples, n), generator=generator)
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, rows, torch.ones_like(rows).double())


def _mean_of_others(counts: Tensor, kernel: Tensor) -> Tensor:
    """Mean of a kernel matrix over pairs of different rows, each as often as it was drawn; NaN without any."""
    kernel = kernel.clone().fill_diagonal_(0)
    return ((counts @ kernel) * counts).sum(1) / (counts.sum(1) ** 2 - counts.square().sum(1))


# -- as a metric of a set ------------------------------------------------------------------------

FEATURES: dict[str, Callable[..., Tensor]] = {"block DCT": block_dct, "mel statistics": mel_statistics}


class KernelDistance:
    """KID between originals and their reconstructions, gathered item by item; see `Metric.set_level`."""

    def __init__(self, *, features: str, minimum: int) -> None:
        self.features, self.minimum = features, minimum
        self.real: list[Tensor] = []
        self.fake: list[Tensor] = []
        self.left_out = ""

    def update(self, reference: Tensor, output: Tensor, **rate: int) -> None:
        """Take a signal and its reconstruction into account; one without these features is left out."""
        try:
            pair = [FEATURES[self.features](x, **rate) for x in (reference, output)]
        except Unmeasurable as reason:
            self.left_out = f" ({reason} in others)"
            return
        self.real.append(pair[0])
        self.fake.append(pair[1])

    def value(self) -> float:
        """The distance; Unmeasurable below the minimum of items."""
        if len(self.real) < self.minimum:
            raise Unmeasurable(f"{len(self.real)} items{self.left_out}; a distance between sets wants {self.minimum}")
        return kid(torch.stack(self.real), torch.stack(self.fake), paired=True)
