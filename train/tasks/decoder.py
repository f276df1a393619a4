"""The decoder task: a flow from what codes say to what the signal was, in steps that may be long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tokenloom import models
from tokenloom.codecs import Codes, LatentCodec, Modality, checkpoint
from tokenloom.codecs.targets import psnr
from tokenloom.models import DiffusionDecoder
from tokenloom.models.diffusion.flow import Conditioning, Flow, broadcast

from ..config import TrainConfig
from .signals import SignalJob, fit, write_samples

WEIGHTS = {"flow": 1.0, "shortcut": 0.3, "codes": 0.01}
"""Of the losses, where a config names none."""
JUMPS = (1.0, 0.5, 0.25, 0.125)
"""Lengths of the jumps that are learned: those of 1, 2, 4 and 8 steps."""
GROUPS = 4
"""Settings of the codec in one batch."""
JUMPING = 4
"""One row in so many learns jumps, the others the flow itself."""
FITTED = 64
"""Training crops by which the size of the plain reconstruction's error is told before the first step."""
SHOWN = 6
"""Validation items that are painted, and whose pictures or sounds are written."""
STEPS = (1, 4)
"""Of their painting."""


class DecoderJob(SignalJob):
    """`task=decoder`: a diffusion decoder behind a trained codec, on random crops of signals."""

    def __init__(self, cfg: TrainConfig) -> None:
        self.weights = _weights(cfg.losses)
        super().__init__(cfg)
        node = dict(cfg.decoder)
        self.focus = node.pop("settings", None)
        begin = node.pop("begin", None)
        self.decoder = models.build_decoder(node)
        self.codec, self.model = self.decoder.codec, self.decoder.flow
        self.settings = _settings(self.codec, self.focus)
        if begin is not None:
            self._begin(begin)
        self.first_crop()
        self.trained = {"losses": self.weights, "settings": self.focus, "begin": begin}

    def _begin(self, name: str) -> None:
        """Take the weights of another decoder, as far as they fit: all but what sees another codec's latents."""
        other = models.load(name)
        if not isinstance(other, DiffusionDecoder):
            raise ValueError(f"decoder.begin={name} is no diffusion decoder")
        mine, theirs = self.model.state_dict(), other.flow.state_dict()
        same = {k: v for k, v in theirs.items() if k in mine and mine[k].shape == v.shape}
        strangers = [k for k in mine if k not in same and not k.startswith("network.latents.")]
        if strangers:
            raise ValueError(f"decoder.begin={name} has another architecture: {strangers[0]} does not fit")
        self.model.load_state_dict(mine | same)

    def recipe(self) -> dict[str, Any]:
        prints = {"codec": self.codec.fingerprint.hex()}
        return {"losses": self.weights, "data": self.described(), "fingerprints": prints}

    @torch.no_grad()
    def start(self) -> None:
        """The law of the plain reconstruction's error over the rate."""
        x = next(iter(self.crops(batch_size=FITTED, steps=1)))[1]
        rates, errors = [], []
        for setting in sorted({self.settings(i / 7) for i in range(8)}, key=self.codec.settings.values.index):
            given = self.decoder.conditioning(self.codec.encode(x, setting))
            rates.append(given.rate)
            errors.append((self.decoder.planes.forward(x) - given.reconstruction).square().mean((1, 2, 3)).sqrt())
        self.model.fit(torch.cat(rates), torch.cat(errors))

    def module(self, adversary: None) -> nn.Module:
        return DecoderTask(self.decoder, self.model, self.weights, self.settings)

    def fill(self, model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
        checkpoint.fill(model, tensors, where)

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        """Of a few items at the lowest and the highest setting: distortion against plain, codes that come back."""
        self.codec.to(device)
        decoder = self.decoder.with_flow(model)
        found: dict[str, list[float]] = {}
        shown = []
        for item, _ in zip(self.validation_set.items(), range(SHOWN), strict=False):
            x = fit(item, self.codec)[None].to(device)
            one = {"original": x[0].cpu()}
            for end, setting in (("low", self.settings(0.0)), ("high", self.settings(1.0))):
                codes = self.codec.encode(x, setting)
                made = {"plain": self.codec.decode(codes)}
                made |= {f"{steps}-steps": decoder.decode(codes, steps) for steps in STEPS}
                for name, y in made.items():
                    found.setdefault(f"{self._measure}/{end}/{name}", []).append(self._distortion(x, y))
                    again = self.codec.encode(y, setting).indices
                    if again.shape == codes.indices.shape:
                        same = (again == codes.indices).float().mean().item()
                        found.setdefault(f"same_codes/{end}/{name}", []).append(same)
                    one[f"{end}-{name}"] = y[0].cpu()
            shown.append(one)
        write_samples(shown, self.codec, samples, step)
        means = {name: sum(values) / len(values) for name, values in found.items()}
        return means | {self._measure: means[f"{self._measure}/high/{STEPS[-1]}-steps"]}

    @property
    def _measure(self) -> str:
        return "psnr" if self.codec.spec.modality is Modality.IMAGE else "log_spectral_distance"

    def _distortion(self, x: Tensor, y: Tensor) -> float:
        """PSNR in dB of pictures; of sounds the mean absolute difference of the planes, in dB."""
        if self.codec.spec.modality is Modality.IMAGE:
            return psnr(x, y)
        of = self.decoder.planes
        return (of.forward(x) - of.forward(y)).abs().mean().item() * of.decibel

    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        models.save(self.decoder.with_flow(model), out, store=self.cfg.store, trained=trained)


class Settings:
    """Position from 0 to 1 → the setting of a codec there: along its sweep, or a list of settings, low to high."""

    def __init__(self, codec: LatentCodec, points: list[Any]) -> None:
        self.values, self.points = codec.settings.values, points

    def __call__(self, where: float) -> Any:
        if any(not isinstance(point, int | float) for point in self.points):
            return self.points[min(int(where * len(self.points)), len(self.points) - 1)]
        place = where * (len(self.points) - 1)
        low = min(int(place), max(len(self.points) - 2, 0))
        high = min(low + 1, len(self.points) - 1)
        wanted = self.points[low] + (place - low) * (self.points[high] - self.points[low])
        return min(self.values, key=lambda value: abs(value - wanted))


def _settings(codec: LatentCodec, focus: Any) -> Settings:
    points = list(codec.settings.sweep) if focus is None else focus
    if not isinstance(points, list) or not points or (wrong := [v for v in points if v not in codec.settings]):
        said = repr(wrong[0]) if isinstance(points, list) and points else f"{focus!r:.80}"
        raise ValueError(f"decoder.settings: {said} of {codec.name} is none of {codec.settings.describe()}")
    return Settings(codec, sorted(points, key=codec.settings.values.index))


class DecoderTask(nn.Module):
    """forward(batch) → (weighted sum, every term by name), over the flow.

    flow      flow matching (Lipman et al., arXiv 2210.02747): at a random time, the velocity r − noise · ε
    shortcut  self-consistency (Frans et al., arXiv 2410.12557, eq. 5): a jump is the mean of two of half its length
    codes     of jumps that end at the signal: latents of the result, encoded again, against those of its codes
    Rows are told apart by their number in the whole batch, over all processes, whose random numbers are drawn alike.
    """

    def __init__(self, decoder: DiffusionDecoder, flow: Flow, weights: Mapping[str, float], settings: Settings) -> None:
        super().__init__()
        self.flow, self.weights, self.settings = flow, dict(weights), settings
        # no submodules: the codec is neither trained nor averaged
        self.behind = (decoder.codec.requires_grad_(False), decoder)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rank, world = _rank()
        rows = torch.arange(len(x)) * world + rank
        order = (rows % GROUPS).argsort(stable=True)
        x, rows = x[order], rows[order]
        codes, given = self.told(x, rows)
        flow = self.flow
        r = (self.behind[1].planes.forward(x) - given.reconstruction) / flow.scale(given)
        noise = flow.noise * _drawn(torch.randn, rows, world, *r.shape[1:]).to(r)
        where, length, time = _drawn(torch.rand, rows, world, 3).to(r).unbind(1)
        jumps = torch.tensor(JUMPS, device=r.device)[(length * len(JUMPS)).long()]
        jumping = ((rows // GROUPS) % JUMPING == 0).to(r.device) & bool(self.weights["shortcut"])
        d = torch.where(jumping, jumps, 0.0)
        t = torch.where(jumping, (time / jumps).floor() * jumps, where)
        z = broadcast(1 - t) * noise + broadcast(t) * r
        velocity = r - noise
        if jumping.any():
            velocity[jumping] = self.halved(z[jumping], t[jumping], d[jumping], given[jumping])
        c_skip, c_out, _ = flow.precondition(t, d)
        found = flow.residual(z, t, d, given)
        errors = (found - (velocity - c_skip * z) / c_out).square().mean((1, 2, 3))
        terms = {"flow": errors[~jumping].mean()}
        if jumping.any():
            terms["shortcut"] = errors[jumping].mean()
            if self.weights["codes"]:
                ends = jumping & (t + d > 1 - 1e-6)
                end = z + broadcast(d) * (c_skip * z + c_out * found)
                terms["codes"] = self.recoded(codes, given, end, ends, x) / jumping.sum()
        total = sum(self.weights[name] * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def told(self, x: Tensor, rows: Tensor) -> tuple[list[Codes], Conditioning]:
        """Signals sorted by group → the codes of each group at a setting of its own, and what they say."""
        codec, decoder = self.behind
        positions = torch.rand(GROUPS).tolist()
        codes, given = [], []
        for group, part in ((g, x[(rows % GROUPS == g).to(x.device)]) for g in range(GROUPS)):
            if len(part):
                codes.append(codec.encode(part, self.settings(positions[group])))
                with torch.autocast(x.device.type, enabled=False):
                    given.append(decoder.conditioning(codes[-1]))
        plain, rates = (torch.cat([getattr(g, key) for g in given]) for key in ("reconstruction", "rate"))
        latents = None if given[0].latents is None else torch.cat([g.latents for g in given])
        return codes, Conditioning(plain, rates, latents)

    @torch.no_grad()
    def halved(self, z: Tensor, t: Tensor, d: Tensor, given: Conditioning) -> Tensor:
        """The mean velocity of two jumps of half the length; of the flow itself where that is shorter than any."""
        half = d / 2
        told = torch.where(half < JUMPS[-1], 0.0, half)
        first = self.flow.average(z, t, told, given)
        second = self.flow.average(z + broadcast(half) * first, t + half, told, given)
        return (first + second) / 2

    def recoded(self, codes: list[Codes], given: Conditioning, end: Tensor, ends: Tensor, x: Tensor) -> Tensor:
        """Sum over the rows in `ends` of the squared error of their latents, relative to the latents' variance."""
        codec, decoder = self.behind
        bounded = codec.quantizer.bounded
        total, at = end.new_zeros(()), 0
        with torch.autocast(x.device.type, enabled=False):
            for some in codes:
                here = slice(at, at + len(some))
                at, chosen = here.stop, ends[here]
                if not chosen.any():
                    continue
                told, wanted = given[here][chosen], codec.embed(some)[chosen]
                planes = told.reconstruction + self.flow.scale(told) * end[here][chosen].float()
                found = bounded(codec.analyze(decoder.planes.inverse(planes, codec.decode(some)[chosen])))
                shared = min(found.shape[-1], wanted.shape[-1])  # codes of flexible length may have fewer
                found, wanted = found[..., :shared], wanted[:, : found.shape[1], ..., :shared]  # behind them, a dial
                error = (found - wanted).square().flatten(1).mean(1)
                total = total + (error / wanted.var().clamp_min(1e-6)).sum()
        return total


def _rank() -> tuple[int, int]:
    """This process, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def _drawn(draw: Any, rows: Tensor, world: int, *shape: int) -> Tensor:
    """Random numbers of some rows of the whole batch, the same however it is shared out."""
    return draw(len(rows) * world, *shape)[rows]


def _weights(given: Mapping[str, float | None]) -> dict[str, float]:
    """The name → weight dict of a run, checked."""
    if unknown := [name for name, weight in given.items() if weight is not None and name not in WEIGHTS]:
        raise ValueError(f"losses.{unknown[0]} is none of {', '.join(WEIGHTS)}, which task=decoder has")
    weights = {name: default if given.get(name) is None else given[name] for name, default in WEIGHTS.items()}
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"losses.{name} {weight!r} is no weight of 0 or more")
    if not weights["flow"]:
        raise ValueError("losses.flow is 0: there is no flow to take shortcuts of")
    return {name: float(weight) for name, weight in weights.items()}
