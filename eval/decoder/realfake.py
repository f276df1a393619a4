"""How easily decoded signals are told from real ones: a small network that sees small patches.

Patches, because a whole picture gives every decoder away: what is judged is texture and edges, not contents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom.metrics.errors import Unmeasurable

from ..metric import _student

WIDTH = 32
STEPS, BATCH, RATE = 600, 128, 5e-3
DEFINITION = (
    f"two convolutions of {WIDTH} and {2 * WIDTH} channels and two linear layers, trained on as many real as decoded "
    f"patches of the training split, at the same places of the same items ({STEPS} steps of {BATCH}, AdamW, fixed "
    "seed, one thread); the share of patches of the test split, half of them real, that it tells right: 50 % is "
    "chance; 95 % interval over items"
)


@dataclass(frozen=True)
class Judgement:
    """The share of test patches told right, its 95 % interval over items, and how many patches and items there were."""

    accuracy: float
    low: float
    high: float
    patches: int
    items: int

    @property
    def beyond_chance(self) -> float:
        """How far from chance, either way."""
        return abs(self.accuracy - 0.5)


class Judge(nn.Module):
    """(batch, channels, height, width) patches → logit of being decoded."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = shape
        rows, columns = -(-height // 2), -(-width // 2)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),  # without it 600 steps are far from enough
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
) -> Judgement:
    """How many patches of the test split a network trained on those of the training split tells right.

    Each argument holds one tensor an item, (patches, channels, height, width) float32, real and decoded ones cut
    from the same places of the same items; items without a patch are left out.
    Raises ValueError where the two do not go together, Unmeasurable where fewer than 2 items have patches.
    """
    train, test = _together(real_train, fake_train, "training"), _together(real_test, fake_test, "test")
    mean, std = torch.cat(train[0]).mean((0, 2, 3)), torch.cat(train[0]).std((0, 2, 3)).clamp_min(1e-3)

    def scaled(patches: Tensor) -> Tensor:
        return (patches - mean[:, None, None]) / std[:, None, None]

    inputs = [scaled(torch.cat(patches)) for patches in train]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            judge = _trained(*inputs)
        answers = [_answers(judge, scaled(torch.cat(patches))) for patches in test]
    finally:
        torch.set_num_threads(threads)
    counts = [len(p) for p in test[0]]
    right = zip((answers[0] < 0).split(counts), (answers[1] > 0).split(counts), strict=True)
    hits = torch.tensor([int(a.sum() + b.sum()) for a, b in right])
    return _judgement(hits.double(), 2 * torch.tensor(counts).double())


def _together(real: Sequence[Tensor], fake: Sequence[Tensor], what: str) -> tuple[list[Tensor], list[Tensor]]:
    if [p.shape for p in real] != [p.shape for p in fake]:
        raise ValueError(f"real and decoded {what} patches differ in number or shape")
    kept = [(a, b) for a, b in zip(real, fake, strict=True) if len(a)]
    if len(kept) < 2:
        raise Unmeasurable(f"{len(kept)} of {len(real)} {what} items have anything to tell by; 2 are wanted")
    return [a for a, _ in kept], [b for _, b in kept]


def _trained(real: Tensor, fake: Tensor) -> Judge:
    """A judge of (n, channels, height, width) real and decoded patches; uses torch's global random stream."""
    judge = Judge(real.shape[1:])
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.2)
    half = BATCH // 2
    targets = torch.cat([torch.zeros(half), torch.ones(half)])
    for _ in range(STEPS):
        rows = torch.randint(len(real), (half,))  # the pair of a patch is in the same step: only what differs counts
        loss = F.binary_cross_entropy_with_logits(judge(torch.cat([real[rows], fake[rows]])), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


@torch.no_grad()
def _answers(judge: Judge, patches: Tensor) -> Tensor:
    return torch.cat([judge(some) for some in patches.split(4096)])


def _judgement(hits: Tensor, counts: Tensor) -> Judgement:
    """Hits and patches of each item → their ratio with an interval that takes items, not patches, as independent."""
    n, total = len(counts), counts.sum()
    share = hits.sum() / total
    spread = ((hits - share * counts).square().sum() * n / (n - 1)).sqrt() / total
    half = float(spread) * _student(n - 1)
    share = float(share)
    return Judgement(share, max(0.0, share - half), min(1.0, share + half), int(total), n)
