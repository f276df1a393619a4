"""A strong decoder behind the codes of any learned codec: a rectified flow from its reconstruction to the signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenloom.codecs import Codes, LatentCodec, rate, validate
from tokenloom.codecs.hub import Card
from tokenloom.codecs.types import CodeSpec

from .. import cards
from . import samplers
from .planes import planes
from .unet import UNet

SAMPLERS = {"shortcut": samplers.shortcut, "euler": samplers.euler, "heun": samplers.heun}
PLACES = 2**20
"""Places of planes that are painted at once, over the items of a batch."""


@dataclass(frozen=True)
class Given:
    """What codes say, as a flow is told it.

    plain    (batch, channels, height, width): the planes of the codec's own reconstruction
    rate     (batch,): log2 of the nominal bits per sample of the signal, over 8
    latents  (batch, dim, rows, columns), one for each place of the network's coarsest stage, or None
    """

    plain: Tensor
    rate: Tensor
    latents: Tensor | None

    def __getitem__(self, rows: slice | Tensor) -> Given:
        return Given(self.plain[rows], self.rate[rows], None if self.latents is None else self.latents[rows])


class Flow(nn.Module):
    """Average velocities of a rectified flow from a codec's reconstruction to the signals behind it.

    At time t the picture is plain + σ · z with z = (1 − t) · noise · ε + t · r, where ε is standard normal and
    r = (signal − plain) / σ. σ is the size of the reconstruction's error at the rate of the codes, a power law that is
    fitted before the first training step (`fit`). All of it in planes (see planes.py).

    noise        spread of the noise that is added to the reconstruction, in σ
    conditional  False: the network sees the picture and the rate alone, so that the flow moves reconstructions to
                 signals with as little change as it can (posterior-mean rectified flow, Ohayon et al., arXiv
                 2410.00418). True: it sees z, the reconstruction and the latents `embed(codes)` side by side, so that
                 the flow draws from all signals that have these codes; that wants noise=1, and costs more distortion
    network      arguments of `UNet`
    """

    def __init__(
        self, channels: int, *, latents: int | None, positioned: bool, noise: float = 0.15, conditional: bool = False,
        **network: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 < noise <= 10:
            raise ValueError(f"noise {noise!r:.80} is no number above 0, up to 10")
        if not isinstance(conditional, bool):
            raise ValueError(f"conditional {conditional!r:.80} is neither true nor false")
        self.config = {"noise": noise, "conditional": conditional, **network}
        self.noise, self.conditional, self.positioned = float(noise), conditional, positioned
        inputs = channels * (2 if conditional else 1) + positioned
        self.network = UNet(inputs, channels, numbers=3, latents=latents if conditional else None, **network)
        self.register_buffer("law", torch.zeros(2))
        """log2 σ = law[0] + law[1] · rate."""

    def fit(self, rates: Tensor, errors: Tensor) -> None:
        """Least squares of the law over the rate and the root-mean-square error (in planes) of some signals."""
        rates, logs = rates.double(), errors.double().clamp_min(1e-6).log2()
        spread = (rates - rates.mean()).square().mean()
        slope = ((rates - rates.mean()) * (logs - logs.mean())).mean() / spread.clamp_min(1e-9)
        self.law.copy_(torch.stack([logs.mean() - slope * rates.mean(), slope]))

    def scale(self, given: Given) -> Tensor:
        """σ of each row, (batch, 1, 1, 1)."""
        return wide(torch.exp2(self.law[0] + self.law[1] * given.rate))

    def precondition(self, t: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in), each (batch, 1, 1, 1): the average velocity is c_skip · z + c_out · network.

        What the network has to say has a variance of 1 over times and signals (in the sense of Karras et al., arXiv
        2206.00364, §5). Where it sees z by itself, as c_in · z, c_skip is exact for a Gaussian r of variance 1: its
        flow takes z at t to z · √(n(t + d) / n(t)) with n(t) = (1 − t)² noise² + t². Where it sees the picture alone,
        z cannot be told from what it is added to, and the velocity r − noise · ε has the variance 1 + noise².
        """
        if not self.conditional:
            one = wide(torch.ones_like(t))
            return 0 * one, (1 + self.noise**2) ** 0.5 * one, one
        n, after = ((1 - at) ** 2 * self.noise**2 + at**2 for at in (t, t + d))
        still = (t - (1 - t) * self.noise**2) / n
        skip = torch.where(d > 1e-4, ((after / n).sqrt() - 1) / d.clamp_min(1e-4), still)
        return wide(skip), wide(self.noise / n.sqrt()), wide(n.rsqrt())

    def residual(self, z: Tensor, t: Tensor, d: Tensor, given: Given) -> Tensor:
        """What the network says of states z (batch, channels, height, width) at times t, jumps d (batch,)."""
        if self.conditional:
            inputs = [self.precondition(t, d)[2] * z, given.plain]
        else:
            inputs = [given.plain + self.scale(given) * z]
        if self.positioned:
            height = torch.linspace(-1, 1, z.shape[2], device=z.device)[:, None]
            inputs.append(height.expand(len(z), 1, *z.shape[2:]))
        return self.network(torch.cat(inputs, 1), torch.stack([t, d, given.rate], 1), given.latents).float()

    def average(self, z: Tensor, t: Tensor, d: Tensor, given: Given) -> Tensor:
        """The mean velocity, from time t to t + d, of the path through z; at d = 0 the velocity itself."""
        c_skip, c_out, _ = self.precondition(t, d)
        return c_skip * z + c_out * self.residual(z, t, d, given)


def wide(values: Tensor) -> Tensor:
    """(batch,) → (batch, 1, 1, 1)."""
    return values[:, None, None, None]


def flow_for(codec: LatentCodec, **config: Any) -> Flow:
    """A fresh flow for the signals and latents of a codec; `config` are arguments of `Flow` and `UNet`."""
    of, spec = planes(codec.spec), codec.spec
    latents = None
    if spec.stride:  # one code's worth of signal says how many channels there are
        latents = codec.embed(codec.encode(torch.zeros(1, spec.channels, *spec.stride))).shape[1]
    return Flow(of.channels, latents=latents, positioned=of.positioned, **config)


class DiffusionDecoder(cards.Published, nn.Module):
    """`codec.decode`, painted: codes → signals with the detail that the codes do not say.

    codec  whose codes it decodes; stays as it is
    flow   of this codec, see `flow_for`
    steps, temperature  of `decode` where a call names none
    """

    def __init__(self, codec: LatentCodec, flow: Flow, *, steps: int = 4, temperature: float = 0.3) -> None:
        super().__init__()
        self.codec = codec.eval()
        self.flow = flow
        self.steps = len(samplers.times(steps)) - 1
        self.temperature = _temperature(temperature)
        self.planes = planes(codec.spec)

    @property
    def config(self) -> dict[str, Any]:
        """Plain values that it is built from, beside the codec."""
        return {"steps": self.steps, "temperature": self.temperature, **self.flow.config}

    def card(self) -> Card:
        return cards.decoder(self)

    def around(self, flow: Flow) -> DiffusionDecoder:
        """The same decoder with another flow, such as an average over its training."""
        return DiffusionDecoder(self.codec, flow, steps=self.steps, temperature=self.temperature)

    def train(self, mode: bool = True) -> DiffusionDecoder:
        """The flow's mode; the codec always stays in eval mode."""
        super().train(mode)
        self.codec.eval()
        return self

    @torch.no_grad()
    def decode(
        self, codes: Codes, steps: int | None = None, seed: int = 0, *, temperature: float | None = None,
        sampler: str = "shortcut",
    ) -> Tensor:  # fmt: skip
        """Codes → signals of their exact sizes, clamped to range, as `codec.decode` gives them.

        steps        1 to 1000; None: the decoder's own
        seed         a whole number from 0 on; the noise of row i depends on (seed, i) alone
        temperature  0 to 1, of that noise: 0 gives the same signal for every seed, nearest to the original; more of
                     it gives more grain, and more distortion; None: the decoder's own
        sampler      "shortcut" jumps along the flow, for few steps; "euler" and "heun" follow it, for many
        Raises ValueError on codes that are not the codec's and values that are none of these.
        """
        validate.codes(codes, self.codec)
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler {sampler!r} is none of {', '.join(SAMPLERS)}")
        if not validate.is_integer(seed, 0, 2**63 - 1):
            raise ValueError(f"seed {seed!r} is no whole number from 0 to 2**63 - 1")
        times = samplers.times(self.steps if steps is None else steps)
        spread = self.flow.noise * (self.temperature if temperature is None else _temperature(temperature))
        device = codes.indices.device
        out = torch.zeros(len(codes), self.codec.spec.channels, *codes.sizes.amax(0).tolist(), device=device)
        for size, rows in _by_size(codes.sizes):
            for some in rows.split(max(1, PLACES // max(1, int(np.prod(size))))):
                part = _picked(codes, some, size, self.codec.spec)
                plain = self.codec.decode(part)
                given = self.given(part, plain)
                noise = torch.stack([_noise(seed, row, given.plain.shape[1:]) for row in some.tolist()])
                painted = self.paint(given, plain, spread * noise.to(device), times, sampler)
                out[(some.to(device), slice(None), *(slice(n) for n in size))] = painted
        return out

    @torch.no_grad()
    def paint(self, given: Given, plain: Tensor, z: Tensor, times: Sequence[float], sampler: str) -> Tensor:
        """States z at time 0 → signals, of codes of one size: what they say, and their plain reconstruction."""

        def average(z: Tensor, t: float, d: float = 0.0) -> Tensor:
            return self.flow.average(z, z.new_full((len(z),), t), z.new_full((len(z),), d), given)

        with torch.autocast(plain.device.type, enabled=False):
            z = SAMPLERS[sampler](average, z, times)
            return self.planes.inverse(given.plain + self.flow.scale(given) * z, plain, settled=True)

    @torch.no_grad()
    def given(self, codes: Codes, plain: Tensor | None = None) -> Given:
        """What codes of one size say; `plain` is `codec.decode(codes)` where that is at hand."""
        plain = self.planes.forward(self.codec.decode(codes) if plain is None else plain)
        bits = rate.nominal(self.codec.spec, codes) / rate.samples(codes)
        told = (bits.clamp_min(2**-24).log2() / 8).float().to(plain.device)
        if self.flow.network.latents is None:
            return Given(plain, told, None)
        return Given(plain, told, self._placed(self.codec.embed(codes), plain.shape[2:]))

    def _placed(self, latents: Tensor, size: Sequence[int]) -> Tensor:
        """Latents (batch, dim, *grid) → the one at each place of the network's coarsest stage."""
        latents = latents[:, :, None] if latents.ndim == 3 else latents
        coarsest = self.flow.network.coarsest
        for axis, (n, stride) in enumerate(zip(size, self.planes.strides, strict=True), 2):
            places = (torch.arange(-(-n // coarsest), device=latents.device) * coarsest / stride).long()
            latents = latents.index_select(axis, places.clamp_max(latents.shape[axis] - 1))
        return latents


def _temperature(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"temperature {value!r:.80} is no number from 0 to 1")
    return float(value)


def _by_size(sizes: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
    """(size, rows that have it) for every size of a batch: what is beyond an item's own size never reaches it."""
    found, which = sizes.cpu().unique(dim=0, return_inverse=True)
    return [(tuple(size), (which == i).nonzero()[:, 0]) for i, size in enumerate(found.tolist())]


def _picked(codes: Codes, rows: Tensor, size: tuple[int, ...], spec: CodeSpec) -> Codes:
    """Some rows of codes, all of one size, without what pads them to larger ones."""
    rows = rows.to(codes.indices.device)
    lengths = None if codes.lengths is None else codes.lengths[rows]
    indices = codes.indices[rows]
    cut = spec.grid(size) if lengths is None else (int(lengths.max()),)
    indices = indices[(..., *(slice(n) for n in cut))]
    return Codes(indices, codes.sizes[rows], lengths, {key: value[rows] for key, value in codes.side.items()})


def _noise(seed: int, row: int, shape: Sequence[int]) -> Tensor:
    """Standard normal; made on the CPU, whatever the device, so that every machine paints the same."""
    mixed = int(np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0]) >> 1
    return torch.randn(*shape, generator=torch.Generator().manual_seed(mixed))
