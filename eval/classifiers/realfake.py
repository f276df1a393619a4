"""Real-or-decoded classifier: a small network that distinguishes decoded patches from real ones.

Its accuracy measures realism. Patches show texture and edges; from whole images the task is too easy to rank decoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom.metrics.errors import Unmeasurable

from ..metric import student
from . import fitting

WIDTH = 32
STEPS, BATCH, RATE = 600, 128, 5e-3
DEFINITION = (
    f"accuracy of a classifier on patches of the test split, half of them real; 50 % is chance; 95 % interval over "
    f"items. Two convolutions of {WIDTH} and {2 * WIDTH} channels and two linear layers, trained on as many real as "
    f"decoded patches of the training split, at the same places of the same items ({STEPS} steps of {BATCH}, AdamW, "
    "fixed seed, one thread)"
)


@dataclass(frozen=True)
class ClassifierAccuracy:
    """Accuracy on test patches with its 95 % interval over items, and the numbers of patches and items."""

    accuracy: float
    low: float
    high: float
    patches: int
    items: int

    @property
    def from_chance(self) -> float:
        """Absolute difference from chance, 0.5."""
        return abs(self.accuracy - 0.5)


class RealFakeClassifier(nn.Module):
    """Classifier that maps patches (batch, channels, height, width) to the logit of being decoded, (batch,)."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = shape
        rows, columns = -(-height // 2), -(-width // 2)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),  # without it the training needs far more steps
            nn.ReLU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, 2, 1, bias=False),
            nn.BatchNorm2d(2 * WIDTH),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * WIDTH * rows * columns, 2 * WIDTH, bias=False),
            nn.BatchNorm1d(2 * WIDTH),
            nn.ReLU(),
            nn.Linear(2 * WIDTH, 1),
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.layers(patches)[:, 0]


def accuracy(
    real_train: Sequence[Tensor],
    fake_train: Sequence[Tensor],
    real_test: Sequence[Tensor],
    fake_test: Sequence[Tensor],
    seed: int = 0,
) -> ClassifierAccuracy:
    """Train a classifier on the training split and return its accuracy on the test split.

    Each argument has one tensor per item, float32 (patches, channels, height, width). Real and decoded patches come
    from the same places of the same items. Items without patches are left out.

    Raises:
        ValueError: If real and decoded patches differ in number or shape.
        Unmeasurable: If fewer than 2 items of a split have patches.
    """
    train, test = _paired(real_train, fake_train, "training"), _paired(real_test, fake_test, "test")
    mean, std = torch.cat(train[0]).mean((0, 2, 3)), torch.cat(train[0]).std((0, 2, 3)).clamp_min(1e-3)

    def scaled(patches: Sequence[Tensor]) -> Tensor:
        return (torch.cat(list(patches)) - mean[:, None, None]) / std[:, None, None]

    with fitting.reproducible(seed):
        network = _trained(scaled(train[0]), scaled(train[1]))
        logits = [_logits(network, scaled(patches)) for patches in test]
    counts = [len(p) for p in test[0]]
    correct = zip((logits[0] < 0).split(counts), (logits[1] > 0).split(counts), strict=True)
    hits = torch.tensor([int(a.sum() + b.sum()) for a, b in correct])
    return over_items(hits.double(), 2 * torch.tensor(counts).double())


def _paired(real: Sequence[Tensor], fake: Sequence[Tensor], split: str) -> tuple[list[Tensor], list[Tensor]]:
    if [p.shape for p in real] != [p.shape for p in fake]:
        raise ValueError(f"real and decoded {split} patches differ in number or shape")
    kept = [(a, b) for a, b in zip(real, fake, strict=True) if len(a)]
    if len(kept) < 2:
        raise Unmeasurable(f"{len(kept)} of {len(real)} {split} items have patches; at least 2 are needed")
    return [a for a, _ in kept], [b for _, b in kept]


def _trained(real: Tensor, fake: Tensor) -> RealFakeClassifier:
    """Train on real and decoded patches (n, channels, height, width)."""
    network = RealFakeClassifier(real.shape[1:])
    half = BATCH // 2
    targets = torch.cat([torch.zeros(half), torch.ones(half)])

    def rows() -> Iterator[Tensor]:
        for _ in range(STEPS):
            yield torch.randint(len(real), (half,))

    def loss(some: Tensor) -> Tensor:  # both patches of a pair, so that content does not matter
        return F.binary_cross_entropy_with_logits(network(torch.cat([real[some], fake[some]])), targets)

    fitting.fit(network, rows(), loss, STEPS, rate=RATE, weight_decay=0.05, warmup=0.2)
    return network.eval()


@torch.no_grad()
def _logits(network: RealFakeClassifier, patches: Tensor) -> Tensor:
    return torch.cat([network(some) for some in patches.split(4096)])


def over_items(hits: Tensor, counts: Tensor) -> ClassifierAccuracy:
    """Return the accuracy over independent items from the hits and patches of each, float64 (items,)."""
    n, total = len(counts), counts.sum()
    share = hits.sum() / total
    spread = ((hits - share * counts).square().sum() * n / (n - 1)).sqrt() / total
    half = float(spread) * student(n - 1)
    share = float(share)
    return ClassifierAccuracy(share, max(0.0, share - half), min(1.0, share + half), int(total), n)
