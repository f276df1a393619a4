"""The adversary: a discriminator, its optimizer, and its share of the codec's gradient.

It uses the hinge loss (Lim & Ye, arXiv 1705.02894). The gradients of all losses with respect to the reconstructions are
weighted (balance.py), summed, and passed on to the codec. The update of the codec therefore never touches the gradients
of the discriminator, which this module averages over the processes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenloom.codecs import LatentCodec, Modality, checkpoint

from . import discriminators
from .balance import Balancer, adaptive_weight, last_layer
from .config import REGULARIZERS, AdversarialConfig
from .losses import feature_matching, hinge, lecam, mean_of, r1

LECAM_DECAY = 0.99


def build(cfg: AdversarialConfig, codec: LatentCodec, fabric: Any, size: int) -> Adversary | None:
    """Return the adversary of a run whose crops have `size` samples per side; None if its weight is 0."""
    if not cfg.adversary.weight:
        return None
    return Adversary(cfg, discriminators.build(codec.spec, size, cfg.adversary.filters), codec, fabric)


class Adversary:
    """A discriminator that trains along with a codec.

    Each step calls `begin`, then `mix` in the forward pass of the codec, then `update` after the update of the codec.
    """

    def __init__(self, run: AdversarialConfig, network: nn.Module, codec: LatentCodec, fabric: Any) -> None:
        cfg = run.adversary
        self.cfg, self.codec, self.fabric = cfg, codec, fabric
        self.clip, self.precision, self.max_skips = run.optimizer.clip, run.precision, run.max_skips
        self.network = network.to(fabric.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), cfg.lr, tuple(cfg.betas))
        self.balancer = Balancer(self._mean)
        given, matching = cfg.regularizer_weight, cfg.feature_matching
        self.regularizer_weight = REGULARIZERS[cfg.regularizer] if given is None else given
        self.matching = (cfg.weight if codec.spec.modality is Modality.AUDIO else 0.0) if matching is None else matching
        self.lecam = torch.zeros(2, network.scales, device=fabric.device)
        """Moving averages of the logits of originals and of reconstructions, at each scale."""
        self.skipped = 0
        self.step = 0
        self._failures = 0
        self._layer: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []

    # -- the loss of the codec --------------------------------------------------------------------

    def begin(self, step: int, rate: float) -> None:
        """Start a step; `rate` is the current share of the peak learning rate."""
        self.step = step
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.lr * rate
        self._pairs.clear()
        self.balancer.discard()

    @property
    def started(self) -> bool:
        """Whether the discriminator takes part in this step."""
        return self.step >= self.cfg.start

    @property
    def mixes(self) -> bool:
        """Whether `mix` weights the gradients in this step."""
        return self.started or self.cfg.balance == "balancer"

    def mix(
        self, x: Tensor, y: Tensor, at: Tensor, terms: dict[str, Tensor], weights: dict[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar with the weighted sum of the losses and their weighted gradient at y, and values for the log.

        `x` holds the originals (batch, channels, …), `y` the reconstructions with their graph to the codec. `at` is a
        detached copy of y that requires a gradient, and `terms` are the reconstruction losses of `at`.
        """
        weights = {name: weights[name] for name in terms}
        value = sum(weights[name] * term for name, term in terms.items())
        if not self.started:
            gradient = self.balancer(_gradients(terms, at), weights)
            return _with_gradient(value, y, gradient), {}
        adversarial = self._generator_terms(x, at)
        logged = {name: term.detach() for name, term in adversarial.items()}
        self._pairs.append((x.detach(), y.detach()))
        opposing = _gradients(adversarial, at)
        own = {"adversarial": self.cfg.weight, "feature_matching": self.matching}
        if self.cfg.balance == "balancer":
            gradient = self.balancer(_gradients(terms, at) | opposing, weights | own)
        else:
            gradient = torch.autograd.grad(value, at)[0]
            if self.cfg.balance == "adaptive":
                self._layer = last_layer(y, self.codec.parameters()) if self._layer is None else self._layer
                logged["adaptive_weight"] = adaptive_weight(
                    y, gradient, opposing["adversarial"], self._layer, self._mean
                )
                own["adversarial"] = logged["adaptive_weight"] * self.cfg.weight
            gradient = gradient + sum(own[name] * g for name, g in opposing.items())
        value = value + sum(own[name] * term for name, term in adversarial.items())
        return _with_gradient(value, y, gradient), logged

    def _generator_terms(self, x: Tensor, at: Tensor) -> dict[str, Tensor]:
        """Return the adversarial losses of the codec: −D(ŷ), and feature matching if it has a weight."""
        with self._precision():
            logits, features = self.network(at)
            with torch.no_grad():
                targets = self.network(x)[1] if self.matching else []
        terms = {"adversarial": -mean_of(scale.float().mean() for scale in logits)}
        if self.matching:
            terms["feature_matching"] = feature_matching(features, targets)
        return terms

    # -- the training of the discriminator --------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Train the discriminator for `updates` steps on originals and reconstructions. Returns values for the log.

        A step whose gradient is NaN or Inf is skipped and counted, and leaves LeCAM's averages unchanged. More than
        `max_skips` skipped steps in a row raise ValueError.
        """
        self.balancer.commit()
        logged: dict[str, Tensor] = {}
        count = math.floor((self.step + 1) * self.cfg.updates) - math.floor(self.step * self.cfg.updates)
        for _ in range(count if self._pairs else 0):
            logged = self._update()
            self._failures = 0 if logged else self._failures + 1
            self.skipped += not logged
            if self._failures > self.max_skips:
                raise ValueError(
                    f"the discriminator's gradient was NaN or Inf {self._failures} times in a row, "
                    f"the last time at step {self.step}"
                )
        if self._pairs:
            logged["discriminator_skipped"] = torch.tensor(float(self.skipped), device=self.fabric.device)
        self._pairs.clear()
        return logged

    def _update(self) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        means = 0.0
        for x, y in self._pairs:
            with self._precision():
                real, fake = ([scale.float() for scale in self.network(signals)[0]] for signals in (x, y))
            loss = hinge(real, fake)
            penalty = self._penalty(x, real, fake)
            ((loss + self.regularizer_weight * penalty) / len(self._pairs)).backward()
            found = torch.stack([torch.stack([scale.detach().mean() for scale in logits]) for logits in (real, fake)])
            means = means + found / len(self._pairs)
            for name, value in {"discriminator": loss, "regularizer": penalty}.items():
                sums[name] = sums.get(name, 0) + value.detach() / len(self._pairs)
        self._share_gradients()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        means = self._mean(means)
        if not bool(torch.isfinite(norm) & torch.isfinite(means).all()):
            self.optimizer.zero_grad()
            return {}
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lecam = LECAM_DECAY * self.lecam + (1 - LECAM_DECAY) * means
        return sums | {"logits_real": means[0].mean(), "logits_fake": means[1].mean()}

    def _penalty(self, x: Tensor, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        if self.cfg.regularizer == "lecam":
            return lecam(real, fake, self.lecam)
        if self.cfg.regularizer == "r1":
            with torch.autocast(x.device.type, enabled=False):
                return r1(self.network, x)
        return x.new_zeros(())

    def _share_gradients(self) -> None:
        """Average the gradients over the processes, in one message."""
        if self.fabric.world_size == 1:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        mean = self._mean(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _mean(self, value: Tensor) -> Tensor:
        return value if self.fabric.world_size == 1 else self.fabric.all_reduce(value.contiguous(), reduce_op="mean")

    def _precision(self) -> torch.autocast:
        """Return the autocast context of the run: bfloat16 or float32. Float16 would need its own loss scale."""
        return torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    # -- state ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run."""
        return {
            "discriminator": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "lecam": self.lecam, "balancer": dict(self.balancer.averages), "skipped": self.skipped,
        }  # fmt: skip

    def load_state_dict(self, saved: dict[str, Any], out: Path) -> None:
        """Restore the state; `out` is named in errors."""
        checkpoint.load_state(self.network, saved["discriminator"], out)
        self.optimizer.load_state_dict(saved["optimizer"])
        device = self.fabric.device
        self.lecam = saved["lecam"].to(device)
        self.balancer.averages = {name: value.to(device) for name, value in saved["balancer"].items()}
        self.skipped = saved["skipped"]


def _gradients(terms: dict[str, Tensor], at: Tensor) -> dict[str, Tensor]:
    return {name: torch.autograd.grad(term, at, retain_graph=True)[0] for name, term in terms.items()}


def _with_gradient(value: Tensor, y: Tensor, gradient: Tensor) -> Tensor:
    """Return a scalar with a given value and a given gradient at y."""
    carrier = (y * gradient).sum()
    return value.detach() + (carrier - carrier.detach())
