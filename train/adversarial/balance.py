"""Weights of the gradients of several losses: the adaptive weight of VQ-GAN and the balancer of EnCodec."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Function that averages over the processes of a run."""

DELTA = 1e-6
LARGEST = 1e4
"""Upper bound of the adaptive weight, as in the code of VQ-GAN. A vanishing gradient would make it infinite."""


def adaptive_weight(y: Tensor, of_reconstruction: Tensor, of_adversary: Tensor, layer: Tensor, mean: Reduce) -> Tensor:
    """Return ‖∇_L rec‖ / (‖∇_L adv‖ + 1e-6), scalar (Esser et al., VQ-GAN, arXiv 2012.09841, eq. 7).

    `y` holds reconstructions with their graph to `layer`, the last weight of the decoder. The two gradients are those
    at y. `mean` averages over the processes, so that the norms are those of the global batch.
    """

    def at_layer(gradient: Tensor) -> Tensor:
        scale = gradient.norm().clamp_min(1e-30)  # keeps the gradient within the range of float16
        return torch.autograd.grad(y, layer, gradient / scale, retain_graph=True)[0].float() * scale

    a, b = mean(torch.stack([at_layer(of_reconstruction), at_layer(of_adversary)]))
    return (a.norm() / (b.norm() + DELTA)).clamp_max(LARGEST)


def last_layer(y: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return the weight that is the fewest operations away from y. Gains and biases do not count."""
    wanted = {id(p): p for p in parameters if p.requires_grad and p.ndim > 1 and p.numel() > p.shape[0]}
    queue, seen = deque([y.grad_fn]), set()
    while queue:
        node = queue.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (found := wanted.get(id(getattr(node, "variable", None)))) is not None:
            return found
        queue.extend(following for following, _ in node.next_functions)
    raise ValueError("balance=adaptive needs a weight that leads to the reconstruction, and this codec has none")


class Balancer:
    """Gradients scaled so that their norms follow the weights (Défossez et al., EnCodec, arXiv 2210.13438, eq. 4).

    g = Σᵢ R · λᵢ / Σⱼ λⱼ · gᵢ / ⟨‖gᵢ‖⟩, with R = 1 and ⟨·⟩ a moving average of decay 0.999, corrected for its start.
    The norms are those of single items, averaged over all processes, so they do not depend on the batch size.
    `commit` keeps the averages of the calls since the last `discard` or `commit`.
    """

    def __init__(self, mean: Reduce, decay: float = 0.999) -> None:
        self.mean, self.decay = mean, decay
        self.averages: dict[str, Tensor] = {}
        """Name → (decayed sum of norms, decayed count)."""
        self._staged: dict[str, Tensor] = {}

    def __call__(self, gradients: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
        """Mix gradients (batch, …) of losses that are means over the batch."""
        norms = self.mean(torch.stack([g.flatten(1).norm(dim=1).sum() for g in gradients.values()]))
        whole = sum(weights[name] for name in gradients)
        mixed = torch.zeros_like(next(iter(gradients.values())))
        for (name, gradient), norm in zip(gradients.items(), norms, strict=True):
            old = self._staged.get(name, self.averages.get(name, norm.new_zeros(2)))
            new = self.decay * old + torch.stack([norm, torch.ones_like(norm)])
            self._staged[name] = new
            mixed += weights[name] / whole * gradient / (new[0] / new[1]).clamp_min(1e-12)
        return mixed

    def commit(self) -> None:
        """Keep the averages of the last calls."""
        self.averages |= self._staged
        self._staged = {}

    def discard(self) -> None:
        """Forget the averages of the last calls."""
        self._staged = {}
