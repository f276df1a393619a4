"""Quantizers behind one three-method protocol.

`quantize` is for training; that of FSQ and BSQ wraps vector-quantize-pytorch, which is imported on first
use (2 s). `search` and `lookup` are the inference path, plain tensor arithmetic on the same state.
Latents are (batch, dim, *grid), indices (batch, quantizers, *grid).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from .codebooks import Batch, kmeans, nearest
from .validate import whole

MAX_CODEBOOK = 2**14
"""Larger codebooks are exposed as several quantizers: a language model could not learn them."""
MAX_BITS = 1024
"""Bits of one BSQ position; the papers use 9 to 36."""
MAX_QUANTIZERS, MAX_DIM = 64, 4096
"""Of one residual quantizer: what a config asks for stays within memory."""
UPDATES = ("ema", "gradient")
BETA = 0.25
"""Weight of the commitment beside the codebook loss: the value of arXiv 1711.00937, of taming VQGAN and of LlamaGen."""
EPSILON = 1e-5
DEAD_SHARE, MAX_DEAD_BELOW = 0.1, 1e6
MAX_LEVELS = 512
"""Levels of one FSQ channel: from 1001 on, the paper's 1e-3 beyond the outer levels would round to one more."""


class Quantized(NamedTuple):
    latents: Tensor
    """(batch, dim, *grid), with gradients to the input"""
    loss: Tensor
    """scalar: commitment loss, with the codebook's where that learns by gradient; or the negated entropy term of a
    lookup-free quantizer"""


class Quantizer(nn.Module, ABC):
    """sizes: entries of each codebook; dim: latent channels; ordered: a prefix of quantizers decodes."""

    sizes: tuple[int, ...]
    dim: int
    ordered: bool = False

    @abstractmethod
    def quantize(self, latents: Tensor) -> Quantized:
        """Training: latents with straight-through gradients, and the quantizer's own loss."""

    @abstractmethod
    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        """Indices int64 of the first `count` quantizers (all by default); no state changes."""

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """Quantised latents of indices; −1 stands for a quantizer that is left out."""

    def bounded(self, latents: Tensor) -> Tensor:
        """Latents, with gradients, in the space of `lookup`: what `search` finds the nearest codes to."""
        return latents


def _flatten(latents: Tensor) -> Tensor:
    """(batch, dim, *grid) → (batch, positions, dim) float32."""
    return latents.flatten(2).transpose(1, 2).float()


def _unflatten(flat: Tensor, like: Tensor) -> Tensor:
    return flat.transpose(1, 2).reshape(like.shape)


class FSQ(Quantizer):
    """Finite scalar quantization: every channel is bounded and rounded to a few levels.

    Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (arXiv 2309.15505), eq. 2 and
    the code of its appendix. `codebooks` exposes the levels as that many codebooks (factorised
    tokens) in place of one of Π levels; more are made where one would exceed 2^14 entries.
    """

    def __init__(self, levels: list[int], codebooks: int = 1) -> None:
        super().__init__()
        if not isinstance(levels, list | tuple) or not levels or any(not whole(n, 3, MAX_LEVELS) for n in levels):
            raise ValueError(f"FSQ levels are a list of whole numbers from 3 to {MAX_LEVELS}, not {levels!r:.80}")
        if not whole(codebooks, 1, len(levels)):
            raise ValueError(f"{len(levels)} FSQ levels make 1 to {len(levels)} codebooks, not {codebooks!r:.80}")
        self.levels = tuple(levels)
        self.dim = len(levels)
        groups = _split(self.levels, codebooks)
        while max(math.prod(g) for g in groups) > MAX_CODEBOOK:
            codebooks += 1
            groups = _split(self.levels, codebooks)
        self.groups = groups
        self.sizes = tuple(math.prod(g) for g in groups)
        self._layer: nn.Module | None = None
        levels_ = torch.tensor(levels, dtype=torch.float32)
        half = (levels_ - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels_ % 2 == 0, 0.5, 0.0)
        for name, value in (("bound", half), ("offset", offset), ("shift", torch.atanh(offset / half)),
                            ("width", torch.tensor([n // 2 for n in levels], dtype=torch.float32))):  # fmt: skip
            self.register_buffer(name, value, persistent=False)

    def quantize(self, latents: Tensor) -> Quantized:
        if self._layer is None:
            from vector_quantize_pytorch import FSQ as Layer

            object.__setattr__(self, "_layer", Layer(list(self.levels), return_indices=False))
        with torch.autocast(latents.device.type, enabled=False):
            flat, _ = self._layer.to(latents.device)(_flatten(latents))
        return Quantized(_unflatten(flat, latents), latents.new_zeros((), dtype=torch.float32))

    def bounded(self, latents: Tensor) -> Tensor:
        channel = (self.dim,) + (1,) * (latents.ndim - 2)
        half, offset, shift, width = (b.reshape(channel) for b in (self.bound, self.offset, self.shift, self.width))
        return (torch.tanh(latents.float() + shift) * half - offset) / width

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        channel = (self.dim,) + (1,) * (latents.ndim - 2)
        half, offset, shift, width = (b.reshape(channel) for b in (self.bound, self.offset, self.shift, self.width))
        digits = (torch.round(torch.tanh(latents.float() + shift) * half - offset) + width).long()
        indices, at = [], 0
        for group in self.groups:
            index, basis = torch.zeros_like(digits[:, 0]), 1
            for level in group:
                index = index + digits[:, at] * basis
                basis, at = basis * level, at + 1
            indices.append(index)
        return torch.stack(indices, 1)

    def lookup(self, indices: Tensor) -> Tensor:
        digits = []
        for q, group in enumerate(self.groups):
            index = indices[:, q]
            for level in group:
                digits.append(index % level)
                index = index // level
        width = self.width.reshape((self.dim,) + (1,) * (indices.ndim - 2))
        return (torch.stack(digits, 1).float() - width) / width


def _split(levels: tuple[int, ...], parts: int) -> tuple[tuple[int, ...], ...]:
    """Levels in order, cut into `parts` runs whose lengths differ by at most one."""
    size, longer = divmod(len(levels), parts)
    cuts = [0]
    for i in range(parts):
        cuts.append(cuts[-1] + size + (i < longer))
    return tuple(levels[a:b] for a, b in itertools.pairwise(cuts))


class BSQ(Quantizer):
    """Binary spherical quantization: latents on the unit sphere, one bit a channel.

    Zhao et al., "Image and Video Tokenization with Binary Spherical Quantization" (arXiv
    2406.07548), which is LFQ on the sphere (vector-quantize-pytorch's LFQ(spherical=True)); the
    entropy term of its eq. 8 is computed per group of `bits / codebooks`, so that no codebook of
    2^bits is ever built.
    """

    spherical: ClassVar[bool] = True
    commitment: ClassVar[float] = 1.0
    """Weight of the commitment loss."""

    def __init__(self, bits: int, codebooks: int | None = None, entropy_weight: float = 0.1) -> None:
        super().__init__()
        if not whole(bits, 1, MAX_BITS):
            raise ValueError(f"BSQ takes 1 to {MAX_BITS} bits, not {bits!r:.80}")
        if codebooks is None:
            codebooks = next(n for n in range(1, bits + 1) if bits % n == 0 and bits // n <= 9)
        if not whole(codebooks, 1, bits) or bits % codebooks or 2 ** (bits // codebooks) > MAX_CODEBOOK:
            raise ValueError(f"{bits} bits do not split into {codebooks!r:.80} codebooks of at most 14 bits each")
        self.dim = bits
        self.bits = bits // codebooks
        self.sizes = (2**self.bits,) * codebooks
        self.entropy_weight = entropy_weight
        self._layer: nn.Module | None = None
        self.register_buffer("basis", 2 ** torch.arange(self.bits - 1, -1, -1), persistent=False)

    def quantize(self, latents: Tensor) -> Quantized:
        if self._layer is None:
            from vector_quantize_pytorch import lookup_free_quantization as library

            library.maybe_distributed_mean = _mean_over_processes  # its own (1.32) drops the sum that it has taken
            layer = library.LFQ(
                codebook_size=self.sizes[0],
                dim=self.dim,
                num_codebooks=len(self.sizes),
                spherical=self.spherical,
                entropy_loss_weight=self.entropy_weight,
                commitment_loss_weight=self.commitment,
            )
            object.__setattr__(self, "_layer", layer)
        self._layer.train(self.training)
        with torch.autocast(latents.device.type, enabled=False):
            flat, _, loss = self._layer.to(latents.device)(_flatten(latents))
        return Quantized(_unflatten(flat, latents), loss)

    def bounded(self, latents: Tensor) -> Tensor:
        return F.normalize(latents.float(), dim=1)

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        bits = (latents > 0).unflatten(1, (len(self.sizes), self.bits))
        return (bits * self.basis.reshape((-1,) + (1,) * (latents.ndim - 2))).sum(2)

    def lookup(self, indices: Tensor) -> Tensor:
        basis = self.basis.reshape((-1,) + (1,) * (indices.ndim - 2))
        signs = ((indices.unsqueeze(2) & basis) > 0).float() * 2 - 1
        return signs.flatten(1, 2) * self.bits**-0.5


def _mean_over_processes(values: Tensor) -> Tensor:
    """With gradients; the values themselves where one process trains alone."""
    if not distributed.is_available() or not distributed.is_initialized():
        return values
    from torch.distributed.nn import all_reduce

    return all_reduce(values) / distributed.get_world_size()


class ResidualVQ(Quantizer):
    """Residual vector quantization; with one quantizer, plain vector quantization.

    Zeghidour et al., SoundStream (arXiv 2107.03312), algorithm 1, with its k-means start and its revival of
    entries that went out of use; both in training only.

    dropout     train with a random number of quantizers a batch, so that every prefix decodes
    decay       of the moving averages: of each entry's uses a batch, and of codebooks that follow one
    dead_below  the average of uses a batch under which an entry is put onto a latent of the batch, its averages
                with it; 0: never. At most a tenth of the mean over entries, so that small batches, in
                which every entry is rare, do not wear a codebook out
    update      "ema": an entry follows the mean of its latents (van den Oord et al., arXiv 1711.00937,
                appendix A.1); "gradient": it is a parameter with the codebook loss of the same paper's eq. 3
    normalise   latents and entries are scaled to unit length, the nearest is the one of least angle
                (ViT-VQGAN, arXiv 2110.04627, §3.2; LlamaGen, arXiv 2406.06525); one quantizer only
    """

    def __init__(
        self, codebook_size: int, dim: int, quantizers: int = 1, *, dropout: bool = True, decay: float = 0.99,
        dead_below: float = 0.1, update: str = "ema", normalise: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not whole(codebook_size, 2, MAX_CODEBOOK):
            raise ValueError(f"a codebook of {codebook_size!r:.80} entries; wanted 2 to {MAX_CODEBOOK}")
        if not whole(quantizers, 1, MAX_QUANTIZERS) or not whole(dim, 1, MAX_DIM):
            raise ValueError(
                f"{quantizers!r:.80} quantizers of {dim!r:.80} channels; "
                f"wanted 1 to {MAX_QUANTIZERS} quantizers of 1 to {MAX_DIM} channels"
            )
        _check_learning(decay, dead_below, update, normalise, quantizers)
        self.sizes = (codebook_size,) * quantizers
        self.dim = dim
        self.ordered = quantizers > 1
        self.dropout = dropout and quantizers > 1
        self.decay, self.dead_below, self.update, self.normalise = decay, dead_below, update, normalise
        start = self._scaled(torch.randn(quantizers, codebook_size, dim) * dim**-0.5)
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
            vectors = self._scaled(_flatten(latents))
            batch = Batch(vectors.detach()) if self.training else None
            learning = batch is not None and batch.finite
            used = 1 + batch.integer(len(self.sizes)) if batch is not None and self.dropout else len(self.sizes)
            total, loss = torch.zeros_like(vectors), vectors.new_zeros(())
            for q in range(used):
                residual = vectors - total
                if learning and not self.started[q]:
                    self._start(q, residual.detach(), batch)
                index = nearest(residual.detach(), self._book(q))
                chosen = self._scaled(F.embedding(index, self.codebook[q]))
                if self.update == "gradient":
                    loss = loss + F.mse_loss(chosen, residual.detach()) + BETA * F.mse_loss(residual, chosen.detach())
                else:
                    loss = loss + F.mse_loss(residual, chosen)
                total = total + chosen.detach()
                if learning:
                    self._learn(q, residual.detach(), index, batch)
        # straight through the sum: through every quantizer its gradient would count as often as there are quantizers
        return Quantized(_unflatten(vectors + (total - vectors).detach(), latents), loss / len(self.sizes))

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
        """One step of the moving averages, then revival."""
        counts, sums = batch.tally(vectors, index, self.sizes[q])
        uses = self.cluster_size[q].lerp_(counts, 1 - self.decay)
        if self.update == "ema":
            mass = uses.sum()
            smoothed = (uses + EPSILON) / (mass + EPSILON * len(uses)) * mass  # entries without uses stay finite
            average = self.codebook_sum[q].lerp_(sums, 1 - self.decay) / smoothed[:, None]
            self.codebook[q] = self._scaled(average)
        floor = min(self.dead_below, DEAD_SHARE * len(batch) / self.sizes[q])
        dead = (uses < floor).nonzero()[:, 0]
        if len(dead):
            dead = dead[batch.choose(min(len(dead), len(batch)), len(dead)).to(dead.device)]
            fresh = batch.draw(vectors, len(dead))
            self.codebook[q, dead], self.cluster_size[q, dead] = fresh, floor
            if self.update == "ema":  # else the average would take the entry back to where it was
                self.codebook_sum[q, dead] = fresh * floor

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.normalise else vectors

    def _book(self, q: int) -> Tensor:
        return self._scaled(self.codebook[q].detach())

    def bounded(self, latents: Tensor) -> Tensor:
        return F.normalize(latents, dim=1) if self.normalise else latents

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        indices = []
        with torch.autocast(latents.device.type, enabled=False):
            residual = self._scaled(_flatten(latents))
            for q in range(len(self.sizes))[:count]:
                book = self._book(q)
                index = nearest(residual, book)
                residual = residual - book[index]
                indices.append(index)
        return torch.stack(indices, 1).reshape(latents.shape[0], -1, *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        total = None
        for q in range(indices.shape[1]):
            index = indices[:, q]
            vectors = self._book(q)[index.clamp_min(0)] * (index >= 0).unsqueeze(-1)
            total = vectors if total is None else total + vectors
        return total.movedim(-1, 1)


def _check_learning(decay: float, dead_below: float, update: str, normalise: bool, quantizers: int) -> None:
    """One line for options of a codebook's training that make no sense."""
    if not isinstance(decay, int | float) or not 0 < decay < 1:
        raise ValueError(f"decay {decay!r:.80} of a codebook's EMA is not between 0 and 1")
    if isinstance(dead_below, bool) or not isinstance(dead_below, int | float) or not 0 <= dead_below <= MAX_DEAD_BELOW:
        raise ValueError(
            f"dead_below {dead_below!r:.80} uses a batch is not between 0 (never revive) and {MAX_DEAD_BELOW}"
        )
    if update not in UPDATES:
        raise ValueError(f"a codebook's update {update!r:.80} is none of {UPDATES}")
    if not isinstance(normalise, bool) or (normalise and quantizers > 1):
        raise ValueError(
            f"normalise={normalise!r:.80} with {quantizers} quantizers: it takes one, as residuals have no length of 1"
        )
