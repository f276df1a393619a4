"""Vector quantization and residual vector quantization."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom import devices

from ..validate import require_integer
from .base import MAX_CODEBOOK, MAX_DIM, MAX_QUANTIZERS, ROUNDING, Quantized, Quantizer, flatten, unflatten
from .codebooks import Batch, kmeans, nearest, nearest_with_lead

UPDATES = ("ema", "gradient")
BETA = 0.25
"""Weight of the commitment loss relative to the codebook loss, as in arXiv 1711.00937, taming VQGAN and LlamaGen."""
EPSILON = 1e-5
"""Added to use counts, so that unused entries stay finite."""
DEAD_SHARE, MAX_DEAD_BELOW = 0.1, 1e6
"""Upper limit of `dead_below` as a share of the mean uses of an entry, and its largest value."""


class ResidualVQ(Quantizer):
    """Residual vector quantization. One quantizer is plain vector quantization.

    In training, codebooks are initialized by k-means, and unused entries are revived.

    Args:
        codebook_size: Entries of each codebook.
        dim: Latent channels.
        quantizers: Number of codebooks.
        dropout: Whether each training batch uses a random number of quantizers, so that every prefix decodes.
        decay: Decay of the moving averages of an entry's uses per batch and, with update="ema", of its latents.
        dead_below: Average uses per batch below which an entry is replaced by a latent of the batch; 0 for never. The
            threshold is at most a tenth of the mean uses of an entry, since every entry is rare in small batches.
        update: "ema": an entry is the moving average of its latents (van den Oord et al., arXiv 1711.00937, appendix
            A.1). "gradient": an entry is a parameter, trained by the codebook loss (eq. 3 of the same paper).
        normalise: Whether latents and entries are scaled to unit length, so that the nearest entry has the smallest
            angle (ViT-VQGAN, arXiv 2110.04627, §3.2; LlamaGen, arXiv 2406.06525). For one quantizer only.

    Source: Zeghidour et al., SoundStream (arXiv 2107.03312), algorithm 1.
    """

    codebook: Tensor
    cluster_size: Tensor
    codebook_sum: Tensor
    started: Tensor

    def __init__(
        self, codebook_size: int, dim: int, quantizers: int = 1, *, dropout: bool = True, decay: float = 0.99,
        dead_below: float = 0.1, update: str = "ema", normalise: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        require_integer("codebook_size", codebook_size, 2, MAX_CODEBOOK)
        require_integer("quantizers", quantizers, 1, MAX_QUANTIZERS)
        require_integer("dim", dim, 1, MAX_DIM)
        _check_learning(decay, dead_below, update, normalise, quantizers)
        self.sizes = (codebook_size,) * quantizers
        self.dim = dim
        self.ordered = quantizers > 1
        self.dropout = dropout and quantizers > 1
        self.decay, self.dead_below, self.update, self.normalise = decay, dead_below, update, normalise
        start = self._scaled(nn.init.normal_(torch.empty(quantizers, codebook_size, dim), std=dim**-0.5))
        if update == "gradient":
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
        self.register_buffer("cluster_size", torch.ones(quantizers, codebook_size))
        if update == "ema":
            self.register_buffer("codebook_sum", start.clone())
        self.register_buffer("started", torch.zeros(quantizers, dtype=torch.bool))

    def quantize(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            vectors = self._scaled(flatten(latents))
            batch = Batch(vectors.detach()) if self.training else None
            used = 1 + batch.integer(len(self.sizes)) if batch is not None and self.dropout else len(self.sizes)
            if batch is not None and not batch.finite:
                batch = None
            total, loss = torch.zeros_like(vectors), vectors.new_zeros(())
            for q in range(used):
                residual = vectors - total
                if batch is not None and not self.started[q]:
                    self._start(q, residual.detach(), batch)
                index = nearest(residual.detach(), self._book(q))
                chosen = self._scaled(F.embedding(index, self.codebook[q]))
                if self.update == "gradient":
                    loss = loss + F.mse_loss(chosen, residual.detach()) + BETA * F.mse_loss(residual, chosen.detach())
                else:
                    loss = loss + F.mse_loss(residual, chosen)
                total = total + chosen.detach()
                if batch is not None:
                    self._learn(q, residual.detach(), index, batch)
        # one straight-through step for the sum: one per quantizer would multiply the gradient by their number
        return Quantized(unflatten(vectors + (total - vectors).detach(), latents), loss / len(self.sizes))

    @torch.no_grad()
    def _start(self, q: int, vectors: Tensor, batch: Batch) -> None:
        means, counts = kmeans(vectors, self.sizes[q], batch, spherical=self.normalise)
        self.cluster_size[q] = counts
        self.codebook[q] = means
        if self.update == "ema":
            self.codebook_sum[q] = means * counts[:, None]
        self.started[q] = True

    @torch.no_grad()
    def _learn(self, q: int, vectors: Tensor, index: Tensor, batch: Batch) -> None:
        """Update the moving averages, then revive unused entries."""
        counts, sums = batch.tally(vectors, index, self.sizes[q])
        uses = self.cluster_size[q].lerp_(counts, 1 - self.decay)
        if self.update == "ema":
            mass = uses.sum()
            smoothed = (uses + EPSILON) / (mass + EPSILON * len(uses)) * mass
            average = self.codebook_sum[q].lerp_(sums, 1 - self.decay) / smoothed[:, None]
            self.codebook[q] = self._scaled(average)
        floor = min(self.dead_below, DEAD_SHARE * len(batch) / self.sizes[q])
        dead = (uses < floor).nonzero()[:, 0]
        if len(dead):
            dead = dead[batch.choose(min(len(dead), len(batch)), len(dead)).to(dead.device)]
            fresh = batch.draw(vectors, len(dead))
            self.codebook[q, dead], self.cluster_size[q, dead] = fresh, floor
            if self.update == "ema":  # otherwise the average would move the entry back
                self.codebook_sum[q, dead] = fresh * floor

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.normalise else vectors

    def _book(self, q: int) -> Tensor:
        return self._scaled(self.codebook[q].detach())

    def bounded(self, latents: Tensor) -> Tensor:
        return F.normalize(latents, dim=1) if self.normalise else latents

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            residual, indices = self._scaled(flatten(latents)), []
            for q in range(len(self.sizes))[:count]:
                indices.append(nearest(residual, self._book(q)))
                residual = residual - self._book(q)[indices[-1]]
        return _on_grid(torch.stack(indices, 1), latents)

    def decide(self, latents: Tensor, count: int | None, error: float) -> tuple[Tensor, Tensor]:
        """See `Quantizer.decide`. The few positions whose second entry is nearly as close are examined in float64."""
        with torch.autocast(latents.device.type, enabled=False):
            vectors = flatten(latents)
            # scaling to unit length scales the error, too
            errors = error / vectors.norm(dim=-1) if self.normalise else torch.full_like(vectors[..., 0], error)
            start = residual = self._scaled(vectors)
            indices, leads, lengths, longest = [], [], [], []
            for q in range(len(self.sizes))[:count]:
                book = self._book(q)
                norms = book.square().sum(1)
                index, lead = nearest_with_lead(residual, book, norms)
                lengths.append(residual.square().sum(-1))
                residual = residual - book[index]
                indices.append(index)
                leads.append(lead)
                longest.append(norms.amax())
            longest = torch.stack(longest).sqrt()[:, None, None]
            rounding = ROUNDING * longest * (2 * torch.stack(lengths).sqrt() + longest)
            close = (torch.stack(leads) < 4 * errors * longest + rounding).any(0)
            found = torch.stack(indices, 1)
            if close.any():
                place = devices.with_float64(start.device)
                vectors = start[close].to(place, torch.float64)
                index, still = self._decide_exactly(vectors, len(indices), errors[close].to(place))
                found.movedim(1, 2)[close], close[close.clone()] = index.to(found.device), still.to(found.device)
        return _on_grid(found, latents), _on_grid(close[:, None], latents)[:, 0]

    def _decide_exactly(self, residual: Tensor, count: int, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of vectors (vectors, dim) in float64, and where an error could change one."""
        indices, close = [], torch.zeros_like(errors, dtype=torch.bool)
        for q in range(count):
            book = self._book(q).to(residual)
            distances = torch.cdist(residual, book, compute_mode="donot_use_mm_for_euclid_dist").square()
            index = distances.argmin(1)
            chosen = book[index]
            lead = distances - distances.gather(1, index[:, None])
            apart = torch.cdist(chosen, book)
            close |= ((lead < 2 * errors[:, None] * apart) & (apart > 0)).any(1)
            residual = residual - chosen
            indices.append(index)
        return torch.stack(indices, 1), close

    def lookup(self, indices: Tensor) -> Tensor:
        def vectors(q: int) -> Tensor:
            index = indices[:, q]
            return self._book(q)[index.clamp_min(0)] * (index >= 0).unsqueeze(-1)

        return functools.reduce(torch.add, map(vectors, range(indices.shape[1]))).movedim(-1, 1)


def _on_grid(found: Tensor, latents: Tensor) -> Tensor:
    """Reshape (batch, quantizers, positions) to (batch, quantizers, *grid)."""
    return found.reshape(*found.shape[:2], *latents.shape[2:])


def _check_learning(decay: float, dead_below: float, update: str, normalise: bool, quantizers: int) -> None:
    """Raise ValueError for invalid options of codebook training."""
    if not isinstance(decay, int | float) or not 0 < decay < 1:
        raise ValueError(f"decay of a codebook must be between 0 and 1, got {decay!r:.80}")
    if isinstance(dead_below, bool) or not isinstance(dead_below, int | float) or not 0 <= dead_below <= MAX_DEAD_BELOW:
        raise ValueError(f"dead_below must be from 0 (never revive) to {MAX_DEAD_BELOW:g}, got {dead_below!r:.80}")
    if update not in UPDATES:
        raise ValueError(f"update of a codebook must be one of {', '.join(UPDATES)}, got {update!r:.80}")
    if not isinstance(normalise, bool) or (normalise and quantizers > 1):
        raise ValueError(f"normalise must be false, or true with 1 quantizer, got {normalise!r:.80} with {quantizers}")
