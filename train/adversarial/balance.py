"""How much of each loss's gradient reaches the codec: VQ-GAN's adaptive weight, EnCodec's balancer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Mean over the processes of a run, the same in all."""

DELTA = 1e-6
LARGEST = 1e4
"""Bound of the adaptive weight, as in VQ-GAN's code: an adversary without gradient would have infinite weight."""


def adaptive_weight(y: Tensor, of_reconstruction: Tensor, of_adversary: Tensor, layer: Tensor, mean: Reduce) -> Tensor:
    """‖∇_L rec‖ / (‖∇_L adv‖ + 1e-6), scalar (Esser et al., VQ-GAN, arXiv 2012.09841, eq. 7).

    y          reconstructions, with their graph to `layer`, the decoder's last weight
    of_…       gradients of the two losses with respect to y
    The norms are those of the gradients averaged over processes, hence of the global batch.
    """

    def at_layer(gradient: Tensor) -> Tensor:
        scale = gradient.norm().clamp_min(1e-30)  # to what float16 can hold, on the way to the layer
        return torch.autograd.grad(y, layer, gradient / scale, retain_graph=True)[0].float() * scale

    a, b = mean(torch.stack([at_layer(of_reconstruction), at_layer(of_adversary)]))
    return (a.norm() / (b.norm() + DELTA)).clamp_max(LARGEST)


def last_layer(y: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Of the parameters with a gradient path to y, the weight that is the fewest operations away from it.

    Gains and biases, one number a channel, are no layer.
    """
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
    raise ValueError("no weight of this codec leads to its reconstruction: balance=adaptive has nothing to measure at")


class Balancer:
    """Gradients scaled so that their norms follow the weights (Défossez et al., EnCodec, arXiv 2210.13438, eq. 4).

    g = Σᵢ R · λᵢ / Σⱼ λⱼ · gᵢ / ⟨‖gᵢ‖⟩, with R = 1 and ⟨·⟩ a moving average of decay 0.999, corrected for its start.
    A norm is that of one item's gradient, mean over the items of all processes, so batch size changes nothing.
    `commit` makes the averages of the calls since the last `discard` or `commit` count.
    """

    def __init__(self, mean: Reduce, decay: float = 0.999) -> None:
        self.mean, self.decay = mean, decay
        self.averages: dict[str, Tensor] = {}
        """Name → (decayed sum of norms, decayed count)."""
        self._staged: dict[str, Tensor] = {}

    def __call__(self, gradients: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
        """Gradients (batch, …) of losses that are means over the batch, at the reconstructions → their mixture."""
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
        self.averages |= self._staged
        self._staged = {}

    def discard(self) -> None:
        self._staged = {}
