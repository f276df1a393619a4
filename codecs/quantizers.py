"""Quantizers behind one three-method protocol.

`quantize` is for training and wraps vector-quantize-pytorch, which is imported on first use (2 s);
`search` and `lookup` are the inference path, plain tensor arithmetic on the same state. Latents are
(batch, dim, *grid), indices (batch, quantizers, *grid).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .validate import whole

MAX_CODEBOOK = 2**14
"""Larger codebooks are exposed as several quantizers: a language model could not learn them."""
MAX_DISTANCES = 2**24
"""Entries of the distance matrix that one chunk of a nearest-neighbour search may hold (64 MiB)."""
MAX_BITS = 1024
"""Bits of one BSQ position; the papers use 9 to 36."""
MAX_QUANTIZERS, MAX_DIM = 64, 4096
"""Of one residual quantizer: what a config asks for stays within memory."""
MAX_LEVELS = 512
"""Levels of one FSQ channel: from 1001 on, the paper's 1e-3 beyond the outer levels would round to one more."""


class Quantized(NamedTuple):
    latents: Tensor
    """(batch, dim, *grid), with gradients to the input"""
    loss: Tensor
    """scalar: commitment loss, or the negated entropy term of a lookup-free quantizer"""


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
            from vector_quantize_pytorch import LFQ as Layer

            layer = Layer(
                codebook_size=self.sizes[0],
                dim=self.dim,
                num_codebooks=len(self.sizes),
                spherical=True,
                entropy_loss_weight=self.entropy_weight,
                commitment_loss_weight=1.0,
            )
            object.__setattr__(self, "_layer", layer)
        self._layer.train(self.training)
        with torch.autocast(latents.device.type, enabled=False):
            flat, _, loss = self._layer.to(latents.device)(_flatten(latents))
        return Quantized(_unflatten(flat, latents), loss)

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        bits = (latents > 0).unflatten(1, (len(self.sizes), self.bits))
        return (bits * self.basis.reshape((-1,) + (1,) * (latents.ndim - 2))).sum(2)

    def lookup(self, indices: Tensor) -> Tensor:
        basis = self.basis.reshape((-1,) + (1,) * (indices.ndim - 2))
        signs = ((indices.unsqueeze(2) & basis) > 0).float() * 2 - 1
        return signs.flatten(1, 2) * self.bits**-0.5


class ResidualVQ(Quantizer):
    """Residual vector quantization; with one quantizer, plain vector quantization.

    Zeghidour et al., SoundStream (arXiv 2107.03312), algorithm 1; EMA codebooks as in van den Oord
    et al. (arXiv 1711.00937), appendix A.1, k-means start and dead-code revival in training only.
    `dropout` trains with a random number of quantizers a batch, so that every prefix decodes;
    `dead_below` is the EMA of uses a batch under which an entry is revived.

    State is held here, stacked over quantizers, and lent to vector-quantize-pytorch while it trains:
    inference needs neither that package nor its import time.
    """

    def __init__(
        self, codebook_size: int, dim: int, quantizers: int = 1, *, dropout: bool = True,
        decay: float = 0.99, dead_below: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if not whole(codebook_size, 2, MAX_CODEBOOK):
            raise ValueError(f"a codebook of {codebook_size!r:.80} entries; wanted 2 to {MAX_CODEBOOK}")
        if not whole(quantizers, 1, MAX_QUANTIZERS) or not whole(dim, 1, MAX_DIM):
            raise ValueError(
                f"{quantizers!r:.80} quantizers of {dim!r:.80} channels; "
                f"wanted 1 to {MAX_QUANTIZERS} quantizers of 1 to {MAX_DIM} channels"
            )
        if not isinstance(decay, int | float) or not 0 < decay < 1:
            raise ValueError(f"decay {decay!r:.80} of a codebook's EMA is not between 0 and 1")
        self.sizes = (codebook_size,) * quantizers
        self.dim = dim
        self.ordered = quantizers > 1
        self._options = {
            "quantize_dropout": dropout and quantizers > 1, "decay": decay, "kmeans_init": True,
            "threshold_ema_dead_code": dead_below, "rotation_trick": False,
        }  # fmt: skip
        self._layer: nn.Module | None = None
        self.register_buffer("codebook", torch.randn(quantizers, codebook_size, dim) * dim**-0.5)
        self.register_buffer("cluster_size", torch.ones(quantizers, codebook_size))
        self.register_buffer("codebook_sum", self.codebook.clone())
        self.register_buffer("started", torch.zeros(quantizers, dtype=torch.bool))

    def quantize(self, latents: Tensor) -> Quantized:
        if self._layer is None:
            from vector_quantize_pytorch import ResidualVQ as Layer

            layer = Layer(dim=self.dim, codebook_size=self.sizes[0], num_quantizers=len(self.sizes), **self._options)
            object.__setattr__(self, "_layer", layer)
        layer = self._layer.to(latents.device).train(self.training)
        for q, vq in enumerate(layer.layers):
            lent = vq._codebook._buffers
            lent["embed"], lent["cluster_size"] = self.codebook[q : q + 1], self.cluster_size[q : q + 1]
            lent["embed_avg"] = self.codebook_sum[q : q + 1]
            # the library would run its k-means start outside training, too
            lent["initted"] = self.started[q] if self.training else torch.ones_like(self.started[q])
        with torch.autocast(latents.device.type, enabled=False):
            flat, _, losses = layer(_flatten(latents))
        return Quantized(_unflatten(flat, latents), losses.mean())

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        residual = _flatten(latents)
        indices = []
        with torch.autocast(latents.device.type, enabled=False):
            for book in self.codebook[:count]:
                index = nearest(residual, book)
                residual = residual - book[index]
                indices.append(index)
        return torch.stack(indices, 1).reshape(latents.shape[0], -1, *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        total = None
        for q, book in enumerate(self.codebook[: indices.shape[1]]):
            index = indices[:, q]
            vectors = book[index.clamp_min(0)] * (index >= 0).unsqueeze(-1)
            total = vectors if total is None else total + vectors
        return total.movedim(-1, 1)


def nearest(
    vectors: Float[Tensor, "*leading dim"], codebook: Float[Tensor, "entries dim"]
) -> Int64[Tensor, "*leading"]:
    """Index of the nearest codebook row in Euclidean distance; (…, dim), (entries, dim) → (…) int64.

    ‖v − c‖² up to ‖v‖², as one matrix product per chunk, so that memory stays bounded.
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    norms = codebook.square().sum(1)
    rows = max(1, MAX_DISTANCES // codebook.shape[0])
    chunks = [torch.addmm(norms, chunk, codebook.T, alpha=-2).argmin(1) for chunk in flat.split(rows)]
    return torch.cat(chunks).reshape(vectors.shape[:-1])
