"""The losses of a diffusion decoder: flow matching, shortcuts, and agreement of the codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tokenloom.codecs import Codes
from tokenloom.models import DiffusionDecoder
from tokenloom.models.diffusion.flow import Conditioning, Flow, broadcast

JUMPS = (1.0, 0.5, 0.25, 0.125)
"""Lengths of the learned jumps, for sampling in 1, 2, 4 and 8 steps."""
GROUPS = 4
"""Number of codec settings in one batch."""
JUMP_ROWS = 4
"""One in this many rows trains jumps; the others train the flow itself."""


class FlowObjective(nn.Module):
    """forward(batch) → (weighted sum of losses, every loss by name).

    * flow: flow matching (Lipman et al., arXiv 2210.02747), the velocity r − noise · ε at a random time
    * shortcut: self-consistency (Frans et al., arXiv 2410.12557, eq. 5), a jump equals two jumps of half its length
    * codes: error of the latents of the re-encoded result, for jumps that end at the signal

    Each process draws the random numbers of the whole batch, so that those of a row do not depend on the division.

    Args:
        decoder: The decoder, whose codec is not trained.
        flow: The network to train.
        weights: Weights of the losses by name.
        settings: Maps a position from 0 to 1 to a setting of the codec.
    """

    def __init__(
        self, decoder: DiffusionDecoder, flow: Flow, weights: Mapping[str, float], settings: Callable[[float], Any]
    ) -> None:
        super().__init__()
        self.flow, self.weights, self.settings = flow, dict(weights), settings
        # a tuple hides them from the submodules: the codec is neither trained nor averaged
        self._frozen = (decoder.codec.requires_grad_(False), decoder)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        codec = self._frozen[0]
        if codec.device != x.device:  # the trainer moves submodules only
            codec.to(x.device)
        rank, world = _rank()
        rows = torch.arange(len(x)) * world + rank
        order = (rows % GROUPS).argsort(stable=True)
        x, rows = x[order], rows[order]
        codes, given = self.encode(x, rows)
        flow = self.flow
        r = (self._frozen[1].planes.forward(x) - given.reconstruction) / flow.scale(given)
        noise = flow.noise * _draw(torch.randn, rows, world, *r.shape[1:]).to(r)
        position, length, time = _draw(torch.rand, rows, world, 3).to(r).unbind(1)
        jumps = torch.tensor(JUMPS, device=r.device)[(length * len(JUMPS)).long()]
        jumping = ((rows // GROUPS) % JUMP_ROWS == 0).to(r.device) & bool(self.weights["shortcut"])
        d = torch.where(jumping, jumps, 0.0)
        t = torch.where(jumping, (time / jumps).floor() * jumps, position)
        z = broadcast(1 - t) * noise + broadcast(t) * r
        velocity = r - noise
        if jumping.any():
            velocity[jumping] = self.shortcut_targets(z[jumping], t[jumping], d[jumping], given[jumping])
        c_skip, c_out, _ = flow.precondition(t, d)
        found = flow.residual(z, t, d, given)
        errors = (found - (velocity - c_skip * z) / c_out).square().mean((1, 2, 3))
        terms = {"flow": errors[~jumping].mean()}
        if jumping.any():
            terms["shortcut"] = errors[jumping].mean()
            if self.weights["codes"]:
                ends = jumping & (t + d > 1 - 1e-6)
                end = z + broadcast(d) * (c_skip * z + c_out * found)
                terms["codes"] = self.code_error(codes, given, end, ends, x) / jumping.sum()
        total = sum(self.weights[name] * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def encode(self, x: Tensor, rows: Tensor) -> tuple[list[Codes], Conditioning]:
        """Encode each group of rows at a random setting. The rows are sorted by group."""
        codec, decoder = self._frozen
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
    def shortcut_targets(self, z: Tensor, t: Tensor, d: Tensor, given: Conditioning) -> Tensor:
        """Return the mean velocity of two jumps of half the length. Below the shortest jump, use the flow."""
        half = d / 2
        length = torch.where(half < JUMPS[-1], 0.0, half)
        first = self.flow.average(z, t, length, given)
        second = self.flow.average(z + broadcast(half) * first, t + half, length, given)
        return (first + second) / 2

    def code_error(self, codes: list[Codes], given: Conditioning, end: Tensor, ends: Tensor, x: Tensor) -> Tensor:
        """Return the squared error of the latents relative to their variance, summed over the rows in `ends`."""
        codec, decoder = self._frozen
        bounded = codec.quantizer.bounded
        total, at = end.new_zeros(()), 0
        with torch.autocast(x.device.type, enabled=False):
            for some in codes:
                here = slice(at, at + len(some))
                at, chosen = here.stop, ends[here]
                if not chosen.any():
                    continue
                condition, target = given[here][chosen], codec.embed(some)[chosen]
                planes = condition.reconstruction + self.flow.scale(condition) * end[here][chosen].float()
                found = bounded(codec.analyze(decoder.planes.inverse(planes, codec.decode(some)[chosen])))
                shared = min(found.shape[-1], target.shape[-1])  # codes of flexible length may have fewer positions
                # channels beyond those of the encoder hold the setting
                found, target = found[..., :shared], target[:, : found.shape[1], ..., :shared]
                error = (found - target).square().flatten(1).mean(1)
                total = total + (error / target.var().clamp_min(1e-6)).sum()
        return total


def _rank() -> tuple[int, int]:
    """Return (rank, number of processes)."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def _draw(generate: Any, rows: Tensor, world: int, *shape: int) -> Tensor:
    """Draw random numbers for the whole batch, and return those of the rows of this process."""
    return generate(len(rows) * world, *shape)[rows]
