"""The rectified flow of a diffusion decoder: a network, its preconditioning, and the scale of the error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenloom.codecs import LatentCodec

from .planes import planes
from .unet import UNet


@dataclass(frozen=True)
class Conditioning:
    """Inputs of a flow that are computed from the codes."""

    reconstruction: Tensor
    """Planes of the codec's own reconstruction, (batch, channels, height, width)."""
    rate: Tensor
    """log2 of the nominal bits per sample of the signal, divided by 8, (batch,)."""
    latents: Tensor | None
    """One latent per position of the network's coarsest stage, (batch, dim, rows, columns), or None."""

    def __getitem__(self, rows: slice | Tensor) -> Conditioning:
        latents = None if self.latents is None else self.latents[rows]
        return Conditioning(self.reconstruction[rows], self.rate[rows], latents)


class Flow(nn.Module):
    """Average velocities of a rectified flow from a codec's reconstruction to the original signal.

    At time t the state is reconstruction + σ · z with z = (1 − t) · noise · ε + t · r, where ε is standard normal and
    r = (signal − reconstruction) / σ. σ is the root mean square of the reconstruction's error as a power law of the
    rate, which `fit` determines before the first training step. All tensors are planes (see planes.py).

    Args:
        channels: Channels of the planes.
        latents: Channels of the codec's latents, or None.
        positioned: If true, the row of each position is an input.
        noise: Standard deviation of the noise that is added to the reconstruction, in units of σ.
        conditional: If false, the inputs are the state and the rate, and the flow changes reconstructions as little as
            possible (posterior-mean rectified flow, Ohayon et al., arXiv 2410.00418). If true, the inputs are z, the
            reconstruction and the latents, and the flow samples from all signals with these codes. This needs noise=1
            and increases distortion.
        **network: Arguments of `UNet`.
    """

    def __init__(
        self, channels: int, *, latents: int | None, positioned: bool, noise: float = 0.15, conditional: bool = False,
        **network: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 < noise <= 10:
            raise ValueError(f"noise must be a number above 0 and at most 10, got {noise!r:.80}")
        if not isinstance(conditional, bool):
            raise ValueError(f"conditional must be true or false, got {conditional!r:.80}")
        self.config = {"noise": noise, "conditional": conditional, **network}
        self.noise, self.conditional, self.positioned = float(noise), conditional, positioned
        inputs = channels * (2 if conditional else 1) + positioned
        self.network = UNet(inputs, channels, numbers=3, latents=latents if conditional else None, **network)
        self.register_buffer("law", torch.zeros(2))
        """log2 σ = law[0] + law[1] · rate."""

    def fit(self, rates: Tensor, errors: Tensor) -> None:
        """Fit the power law of σ to the rates and root-mean-square errors (in planes) of signals, by least squares."""
        rates, logs = rates.cpu().double(), errors.cpu().double().clamp_min(1e-6).log2()
        variance = (rates - rates.mean()).square().mean()
        slope = ((rates - rates.mean()) * (logs - logs.mean())).mean() / variance.clamp_min(1e-9)
        self.law.copy_(torch.stack([logs.mean() - slope * rates.mean(), slope]))

    def scale(self, given: Conditioning) -> Tensor:
        """Return σ of each item, (batch, 1, 1, 1)."""
        return broadcast(torch.exp2(self.law[0] + self.law[1] * given.rate))

    def precondition(self, t: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (c_skip, c_out, c_in), each (batch, 1, 1, 1): average velocity = c_skip · z + c_out · network.

        The target of the network has variance 1 over times and signals (Karras et al., arXiv 2206.00364, §5). A
        conditional network has the input c_in · z, and c_skip is exact for a Gaussian r of variance 1: the flow takes
        z at t to z · √(n(t + d) / n(t)) with n(t) = (1 − t)² noise² + t². An unconditional network sees only the
        state, and its target r − noise · ε has variance 1 + noise².
        """
        if not self.conditional:
            one = broadcast(torch.ones_like(t))
            return 0 * one, (1 + self.noise**2) ** 0.5 * one, one
        n, after = ((1 - time) ** 2 * self.noise**2 + time**2 for time in (t, t + d))
        instantaneous = (t - (1 - t) * self.noise**2) / n
        skip = torch.where(d > 1e-4, ((after / n).sqrt() - 1) / d.clamp_min(1e-4), instantaneous)
        return broadcast(skip), broadcast(self.noise / n.sqrt()), broadcast(n.rsqrt())

    def residual(self, z: Tensor, t: Tensor, d: Tensor, given: Conditioning) -> Tensor:
        """Return the network's output for states z (batch, channels, height, width), times t and steps d (batch,)."""
        if self.conditional:
            inputs = [self.precondition(t, d)[2] * z, given.reconstruction]
        else:
            inputs = [given.reconstruction + self.scale(given) * z]
        if self.positioned:
            row = torch.linspace(-1, 1, z.shape[2], device=z.device)[:, None]
            inputs.append(row.expand(len(z), 1, *z.shape[2:]))
        return self.network(torch.cat(inputs, 1), torch.stack([t, d, given.rate], 1), given.latents).float()

    def average(self, z: Tensor, t: Tensor, d: Tensor, given: Conditioning) -> Tensor:
        """Return the mean velocity from time t to t + d of the path through z; at d = 0, the velocity at t."""
        c_skip, c_out, _ = self.precondition(t, d)
        return c_skip * z + c_out * self.residual(z, t, d, given)


def broadcast(values: Tensor) -> Tensor:
    """Reshape (batch,) to (batch, 1, 1, 1)."""
    return values[:, None, None, None]


def build_flow(codec: LatentCodec, **config: Any) -> Flow:
    """Build an untrained flow for a codec. `config` holds arguments of `Flow` and `UNet`."""
    kind, spec = planes(codec.spec), codec.spec
    latents = None
    if spec.stride:  # the latents of a small signal have the same channels
        latents = codec.embed(codec.encode(torch.zeros(1, spec.channels, *spec.stride))).shape[1]
    return Flow(kind.channels, latents=latents, positioned=kind.positioned, **config)
