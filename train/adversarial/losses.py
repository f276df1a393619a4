"""The losses of adversarial training, each a mean over the scales of the discriminator."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def hinge(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Return the hinge loss of the discriminator: max(0, 1 − D(x)) + max(0, 1 + D(ŷ)), mean over logits."""
    return mean_of(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True))


def lecam(real: list[Tensor], fake: list[Tensor], averages: Tensor) -> Tensor:
    """Return (D(x) − α_fake)² + (D(ŷ) − α_real)² (Tseng et al., LeCAM, arXiv 2104.03310, eq. 5).

    `averages` (2, scales) are α_real and α_fake, moving averages of the logits.
    """
    pairs = zip(real, fake, averages.T, strict=True)
    return mean_of((r - a[1]).square().mean() + (f - a[0]).square().mean() for r, f, a in pairs)


def r1(network: nn.Module, x: Tensor) -> Tensor:
    """Return ½ ‖∇ₓ D(x)‖², mean over the originals (Mescheder et al., arXiv 1801.04406, eq. 9).

    D(x) is the mean logit of an item, as in the hinge loss. It needs a second derivative, so call it in float32.
    """
    x = x.detach().requires_grad_()
    logit = mean_of(scale.flatten(1).mean(1) for scale in network(x)[0])
    (gradient,) = torch.autograd.grad(logit.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


def feature_matching(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Return the mean absolute difference of features over their mean size, mean over layers (EnCodec, eq. 2)."""
    layers = [(f.float(), r.float()) for scale in zip(fake, real, strict=True) for f, r in zip(*scale, strict=True)]
    return mean_of((f - r).abs().mean() / r.abs().mean().clamp_min(1e-8) for f, r in layers)


def mean_of(terms: Iterable[Tensor]) -> Tensor:
    """Return the mean of terms of equal shape."""
    return torch.stack(list(terms)).mean(0)
