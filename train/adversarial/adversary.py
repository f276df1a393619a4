"""The adversary: a discriminator, its optimizer, and what it adds to the codec's gradient.

Hinge loss (Lim & Ye, arXiv 1705.02894). The codec's side is computed at the reconstructions: gradients of all
losses with respect to them are weighed there (balance.py) and handed on to the codec as one, so that nothing of
it ever touches the discriminator's own gradients. The discriminator's gradients are averaged over processes here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom.codecs import LatentCodec, Modality, checkpoint, validate

from ..config import AdversaryConfig, TrainConfig
from . import discriminators
from .balance import Balancer, adaptive_weight, last_layer

REGULARIZERS = {"lecam": 0.001, "r1": 10.0, "none": 0.0}
"""Weights where the config names none: that of today's image tokenizers for LeCAM, StyleGAN2's for R1."""
BALANCES = ("none", "adaptive", "balancer")
LECAM_DECAY = 0.99


def check(cfg: AdversaryConfig) -> None:
    """ValueError, one line, for what no codec could train with."""
    for key, allowed in (("regularizer", tuple(REGULARIZERS)), ("balance", BALANCES)):
        if getattr(cfg, key) not in allowed:
            raise ValueError(f"adversary.{key} {getattr(cfg, key)!r} is none of {allowed}")
    if len(cfg.betas) != 2:
        raise ValueError(f"adversary.betas={cfg.betas} are not two numbers")
    for key, least, most in (("start", 0, 2**62), ("filters", 1, 4096)):
        value = getattr(cfg, key)
        if not validate.is_integer(value, least, most) and (key, value) != ("filters", None):
            raise ValueError(f"adversary.{key}={value!r} is no whole number from {least} to {most}")
    numbers = {
        "weight": (cfg.weight, 0, 1e6), "updates": (cfg.updates, 0.01, 8), "lr": (cfg.lr, 0, 1),
        "regularizer_weight": (cfg.regularizer_weight, 0, 1e9), "feature_matching": (cfg.feature_matching, 0, 1e6),
    }  # fmt: skip
    numbers |= {f"betas[{i}]": (beta, 0, 0.99999) for i, beta in enumerate(cfg.betas)}
    for key, (value, low, high) in numbers.items():
        if value is None and key in ("regularizer_weight", "feature_matching"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"adversary.{key}={value!r} is not between {low:g} and {high:g}")


def recipe(cfg: TrainConfig) -> dict[str, str]:
    """What a resumed run must share and a checkpoint tells of: nothing where there is no adversary."""
    keys = asdict(cfg.adversary).items()
    return {"adversary": ", ".join(f"{k}={v}" for k, v in keys if v is not None)} if cfg.adversary.weight else {}


def build(cfg: TrainConfig, codec: LatentCodec, fabric: Any, size: int) -> Adversary | None:
    """The adversary of a run whose crops have `size` samples a side; None where its weight is 0."""
    if not cfg.adversary.weight:
        return None
    return Adversary(cfg, discriminators.build(codec.spec, size, cfg.adversary.filters), codec, fabric)


class Adversary:
    """What the loop and the codec task see of adversarial training.

    begin(step, rate)  before a step; rate is the share of the peak learning rate that the schedule is at
    mix(…)             in the codec's forward pass: the loss whose gradient is the weighed one
    update()           after the codec's own update: the discriminator's; figures for the log
    """

    def __init__(self, run: TrainConfig, network: nn.Module, codec: LatentCodec, fabric: Any) -> None:
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
        """Moving averages of the logits, of originals and of reconstructions, at each scale."""
        self.skipped = 0
        self.step = 0
        self._failures = 0
        self._layer: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []

    # -- the codec's side -------------------------------------------------------------------------

    def begin(self, step: int, rate: float) -> None:
        self.step = step
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.lr * rate
        self._pairs.clear()
        self.balancer.discard()

    @property
    def started(self) -> bool:
        return self.step >= self.cfg.start

    @property
    def mixes(self) -> bool:
        """Whether the losses' gradients are weighed at the reconstructions in this step."""
        return self.started or self.cfg.balance == "balancer"

    def mix(
        self, x: Tensor, y: Tensor, at: Tensor, terms: dict[str, Tensor], weights: dict[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar with the value of the weighted sum, whose gradient at y is the weighed one; figures for the log.

        x      originals (batch, channels, …) float32; y  reconstructions, with their graph to the codec
        at     y cut off from that graph, requiring a gradient; terms  reconstruction losses computed from it
        """
        weights = {name: weights[name] for name in terms}
        value = sum(weights[name] * term for name, term in terms.items())
        if not self.started:
            gradient = self.balancer(_gradients(terms, at), weights)
            return _with_gradient(value, y, gradient), {}
        adversarial = self._generator_terms(x, at)
        figures = {name: term.detach() for name, term in adversarial.items()}
        self._pairs.append((x.detach(), y.detach()))
        against = _gradients(adversarial, at)
        own = {"adversarial": self.cfg.weight, "feature_matching": self.matching}
        if self.cfg.balance == "balancer":
            gradient = self.balancer(_gradients(terms, at) | against, weights | own)
        else:
            gradient = torch.autograd.grad(value, at)[0]
            if self.cfg.balance == "adaptive":
                self._layer = last_layer(y, self.codec.parameters()) if self._layer is None else self._layer
                figures["adaptive_weight"] = adaptive_weight(
                    y, gradient, against["adversarial"], self._layer, self._mean
                )
                own["adversarial"] = figures["adaptive_weight"] * self.cfg.weight
            gradient = gradient + sum(own[name] * g for name, g in against.items())
        value = value + sum(own[name] * term for name, term in adversarial.items())
        return _with_gradient(value, y, gradient), figures

    def _generator_terms(self, x: Tensor, at: Tensor) -> dict[str, Tensor]:
        """What the codec is to lower: −D(ŷ), and the distance of D's features where it has a weight."""
        with self._precision():
            logits, features = self.network(at)
            with torch.no_grad():
                wanted = self.network(x)[1] if self.matching else []
        terms = {"adversarial": -_mean_of(scale.float().mean() for scale in logits)}
        if self.matching:
            terms["feature_matching"] = feature_matching(features, wanted)
        return terms

    # -- its own ----------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """`updates` steps of the discriminator on the step's originals and reconstructions.

        One whose gradient is NaN or Inf is left out, LeCAM's averages included, and counted in `skipped`;
        ValueError after more than `max_skips` in a row.
        """
        self.balancer.commit()
        figures: dict[str, Tensor] = {}
        count = math.floor((self.step + 1) * self.cfg.updates) - math.floor(self.step * self.cfg.updates)
        for _ in range(count if self._pairs else 0):
            figures = self._update()
            self._failures = 0 if figures else self._failures + 1
            self.skipped += not figures
            if self._failures > self.max_skips:
                raise ValueError(
                    f"the discriminator's gradient was NaN or Inf {self._failures} times in a row, "
                    f"the last time at step {self.step}"
                )
        if self._pairs:
            figures["discriminator_skipped"] = torch.tensor(float(self.skipped), device=self.fabric.device)
        self._pairs.clear()
        return figures

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
        """Mean over processes, in one message."""
        if self.fabric.world_size == 1:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        mean = self._mean(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _mean(self, value: Tensor) -> Tensor:
        return value if self.fabric.world_size == 1 else self.fabric.all_reduce(value.contiguous(), reduce_op="mean")

    def _precision(self) -> torch.autocast:
        """The run's bfloat16, or float32: float16 would need a loss scale of its own."""
        return torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    # -- state ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "discriminator": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "lecam": self.lecam, "balancer": dict(self.balancer.averages), "skipped": self.skipped,
        }  # fmt: skip

    def load_state_dict(self, saved: dict[str, Any], out: Path) -> None:
        checkpoint.fill(self.network, saved["discriminator"], out)
        self.optimizer.load_state_dict(saved["optimizer"])
        device = self.fabric.device
        self.lecam = saved["lecam"].to(device)
        self.balancer.averages = {name: value.to(device) for name, value in saved["balancer"].items()}
        self.skipped = saved["skipped"]


# -- the losses of adversarial training, each a mean over the discriminator's scales ----------------


def hinge(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """max(0, 1 − D(x)) + max(0, 1 + D(ŷ)), mean over logits: what the discriminator lowers."""
    return _mean_of(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True))


def lecam(real: list[Tensor], fake: list[Tensor], averages: Tensor) -> Tensor:
    """(D(x) − α_fake)² + (D(ŷ) − α_real)² (Tseng et al., LeCAM, arXiv 2104.03310, eq. 5).

    averages  (2, scales): α_real and α_fake, moving averages of the discriminator's logits
    """
    pairs = zip(real, fake, averages.T, strict=True)
    return _mean_of((r - a[1]).square().mean() + (f - a[0]).square().mean() for r, f, a in pairs)


def r1(network: nn.Module, x: Tensor) -> Tensor:
    """½ ‖∇ₓ D(x)‖², mean over the originals (Mescheder et al., arXiv 1801.04406, eq. 9).

    D(x) is an item's mean logit, the verdict that the hinge loss sees; double backward, so float32.
    """
    x = x.detach().requires_grad_()
    verdict = _mean_of(scale.flatten(1).mean(1) for scale in network(x)[0])
    (gradient,) = torch.autograd.grad(verdict.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


def feature_matching(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Mean absolute difference of the features over their mean size, mean over layers (EnCodec, eq. 2)."""
    layers = [(f.float(), r.float()) for scale in zip(fake, real, strict=True) for f, r in zip(*scale, strict=True)]
    return _mean_of((f - r).abs().mean() / r.abs().mean().clamp_min(1e-8) for f, r in layers)


def _mean_of(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean(0)


def _gradients(terms: dict[str, Tensor], at: Tensor) -> dict[str, Tensor]:
    return {name: torch.autograd.grad(term, at, retain_graph=True)[0] for name, term in terms.items()}


def _with_gradient(value: Tensor, y: Tensor, gradient: Tensor) -> Tensor:
    """A scalar with this value, and with this gradient with respect to y."""
    carrier = (y * gradient).sum()
    return value.detach() + (carrier - carrier.detach())
