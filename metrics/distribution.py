"""Distances between a set of real signals and a set of decoded ones.

The kernel distance (KID) is the squared maximum mean discrepancy of Bińkowski et al. 2018 (arXiv 1801.01401). The
estimate is unbiased: its mean is 0 if both sets have the same distribution, and it can fall slightly below 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tokenloom import lazy

from . import efficientnet, errors, features
from .errors import Unmeasurable
from .image import prepare

torchmetrics = lazy.load("torchmetrics", "eval")

FLOOR = 0.05
"""Lower bound on the standard deviations that features are divided by. Features are natural logarithms."""
ROWS = 2048
"""Rows of a kernel matrix computed at once."""
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"

_KERNEL = (
    "unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, d = number of features "
    "(arXiv 1801.01401)"
)
_PAIRS = "a signal is never compared with its own reconstruction; about 0, or below, if the sets cannot be told apart"
DISTANCE = (
    f"{_KERNEL}; each feature standardized by mean and standard deviation of the real set, the latter at least "
    f"{FLOOR}; {_PAIRS}"
)
"""Definition of `kid`."""
NETWORK_DISTANCE = f"1,000 times the {_KERNEL}; {_PAIRS}"
"""Definition of `kid` in the features of a network, which are not standardized, as in the paper."""


# -- the kernel distance --------------------------------------------------------------------------


def kid(real: Tensor, fake: Tensor, *, paired: bool = False, standardized: bool = True) -> float:
    """Return the squared maximum mean discrepancy between two sets of features, unbiased, computed in float64.

    Args:
        real: Features (n, d) of real signals.
        fake: Features (m, d) of decoded signals.
        paired: If true, row i of `fake` is the reconstruction of row i of `real`. The mean over pairs then leaves out
            the pairs (i, i), which would bias it towards 0 (Gretton et al. 2012, eq. 3).
        standardized: Whether each feature is divided by its deviation first. A feature of a network that is rarely
            above 0 would then outweigh all others.

    Raises:
        Unmeasurable: If a set has fewer than 2 rows.
        ValueError: If the shapes do not fit.
    """
    x, y = standardize(real, fake, paired) if standardized else _checked(real, fake, paired)
    n, m = len(x), len(y)
    crossed = _total(x, y)
    crossed = (crossed - float(_kernel_of_pairs(x, y).sum())) / (n * (n - 1)) if paired else crossed / (n * m)
    within = [(_total(z, z) - float(_kernel_of_pairs(z, z).sum())) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return sum(within) - 2 * crossed


def bootstrap(real: Tensor, fake: Tensor, *, paired: bool = False, resamples: int = 1000, seed: int = 0) -> Tensor:
    """Return the `kid` of each bootstrap resample, float64 (resamples,).

    Copies of a row are never compared with each other. Paired rows are drawn together. The whole real set determines
    the standardization. The same seed draws the same rows, so two sets of equal size can be compared draw by draw.
    """
    x, y = standardize(real, fake, paired)
    generator = torch.Generator().manual_seed(seed)
    u = _draws(len(x), resamples, generator)
    v = u if paired else _draws(len(y), resamples, generator)
    crossed = _kernel(x, y)
    crossed = _mean_of_others(u, crossed) if paired else ((u @ crossed) * v).sum(1) / (len(x) * len(y))
    return _mean_of_others(u, _kernel(x, x)) + _mean_of_others(v, _kernel(y, y)) - 2 * crossed


def interval(samples: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds a share `level` of bootstrap samples. NaN samples are left out."""
    known = samples[samples.isfinite()]
    if not len(known):
        raise Unmeasurable("every bootstrap sample repeats a single signal")
    low, high = known.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=known.dtype)).tolist()
    return low, high


def standardize(real: Tensor, fake: Tensor, paired: bool = False) -> tuple[Tensor, Tensor]:
    """Return both sets in float64, shifted and scaled so that the real set has mean 0 and deviation 1; see FLOOR."""
    real, fake = _checked(real, fake, paired)
    mean, std = real.mean(0), real.std(0, correction=0).clamp_min(FLOOR)
    return (real - mean) / std, (fake - mean) / std


def _checked(real: Tensor, fake: Tensor, paired: bool) -> tuple[Tensor, Tensor]:
    """Return both sets in float64. Raises the errors of `kid`."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"features must be (n, d) and (m, d), got {tuple(real.shape)} and {tuple(fake.shape)}")
    if paired and len(real) != len(fake):
        raise ValueError(f"paired sets must be equal in number, got {len(real)} real and {len(fake)} decoded signals")
    if min(len(real), len(fake)) < 2:
        raise Unmeasurable(f"{min(len(real), len(fake))} signals; a distance between sets needs 2")
    return real.double(), fake.double()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_of_pairs(x: Tensor, y: Tensor) -> Tensor:
    """Return the diagonal of `_kernel`."""
    return ((x * y).sum(1) / x.shape[1] + 1) ** 3


def _total(x: Tensor, y: Tensor) -> float:
    """Return the sum of `_kernel`, computed in blocks of ROWS rows."""
    return math.fsum(float(_kernel(some, y).sum()) for some in x.split(ROWS))


def _draws(n: int, resamples: int, generator: torch.Generator) -> Tensor:
    """Return how often each of n rows is drawn, float64 (resamples, n)."""
    rows = torch.randint(n, (resamples, n), generator=generator)
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, rows, torch.ones_like(rows).double())


def _mean_of_others(counts: Tensor, kernel: Tensor) -> Tensor:
    """Return the mean of a kernel matrix over pairs of different rows, weighted by counts; NaN without pairs."""
    kernel = kernel.clone().fill_diagonal_(0)
    return ((counts @ kernel) * counts).sum(1) / (counts.sum(1) ** 2 - counts.square().sum(1))


# -- metrics of a whole set -----------------------------------------------------------------------

FEATURES: dict[str, Callable[..., Tensor]] = {
    "block DCT": features.block_dct,
    "mel statistics": features.mel_statistics,
    "EfficientNet-Lite0": efficientnet.features,
}
NETWORKS = ("EfficientNet-Lite0",)
"""FEATURES of networks; see NETWORK_DISTANCE."""


class KernelDistance:
    """KID between originals and their reconstructions in one of FEATURES, updated item by item."""

    def __init__(self, *, features: str, minimum: int) -> None:
        self.name, self.minimum = features, minimum
        self.pairs: list[Tensor] = []

    def features(self, reference: Tensor, output: Tensor, **rate: int) -> Tensor:
        """Return the features of a signal and its reconstruction (2, d). Raises Unmeasurable if it has none."""
        pair = torch.stack([FEATURES[self.name](x, **rate) for x in (reference, output)])
        if not pair.isfinite().all():
            raise Unmeasurable("the features are not finite")
        return pair

    def add(self, pair: Tensor) -> None:
        """Add the features of an item."""
        self.pairs.append(pair)

    def value(self) -> float:
        """Return the distance. Raises Unmeasurable with fewer items than the minimum."""
        if len(self.pairs) < self.minimum:
            raise Unmeasurable(f"{len(self.pairs)} items; a distance between sets needs {self.minimum}")
        real, fake = torch.stack(self.pairs, 1)
        network = self.name in NETWORKS
        return kid(real, fake, paired=True, standardized=not network) * (1000 if network else 1)


class FrechetInception:
    """rFID: Fréchet distance of Inception features (Heusel et al. 2017) between images and reconstructions."""

    def __init__(self, *, rounding: str, space: str, minimum: int) -> None:
        self.rounding, self.space, self.minimum, self.count = rounding, space, minimum, 0
        self.fid = torchmetrics.image.FrechetInceptionDistance(
            2048, normalize=True, feature_extractor_weights_path=str(errors.hub_file(INCEPTION))
        )

    def features(self, reference: Tensor, output: Tensor) -> Tensor:
        """Return the features (2, 2048) of an image (3, height, width) in [0, 1] and its reconstruction."""
        images = (prepare(x, self.rounding, self.space) for x in (reference, output))
        return torch.cat([self.fid.inception((x * 255).byte()) for x in images])

    def add(self, pair: Tensor) -> None:
        """Add the features of an item."""
        for kind, x in zip(("real", "fake"), pair.double(), strict=True):
            getattr(self.fid, f"{kind}_features_sum").add_(x)
            getattr(self.fid, f"{kind}_features_cov_sum").addr_(x, x)
            getattr(self.fid, f"{kind}_features_num_samples").add_(1)
        self.fid.orig_dtype = pair.dtype
        self.count += 1

    def value(self) -> float:
        """Return the distance. Raises Unmeasurable with fewer images than the minimum."""
        if self.count < self.minimum:
            raise Unmeasurable(f"{self.count} images; a covariance of 2,048 features needs {self.minimum:,}")
        return self.fid.compute().item()


def rfid_missing() -> str | None:
    """Return the reason why rFID cannot be computed, or None. Nothing is downloaded."""
    return errors.missing_package("torch_fidelity", "rfid") or errors.missing_weights(INCEPTION)
