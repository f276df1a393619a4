"""How a codebook is searched, started and kept alive: nearest neighbours, k-means, and draws from a training batch.

Written out here, where vector-quantize-pytorch 1.32 has the same arithmetic, for three things that it lacks: no
matrix of positions × entries is ever held; L2-normalised codebooks may learn by gradient; and what several processes
draw for a k-means start or a revival is what one process with the whole batch would draw.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, distributed

MAX_DISTANCES = 2**24
"""Entries of the distance matrix that one chunk of a nearest-neighbour search may hold (64 MiB)."""
KMEANS_STEPS = 10


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


class Batch:
    """The latents of one training step, (items, positions, dim), in however many processes they lie.

    Items are dealt to the processes in turn and equally many to each, as data/loader.py deals them. Sums run over
    all of them, and draws are the same everywhere, so that codebooks stay identical on every rank.
    """

    def __init__(self, latents: Float[Tensor, "items positions dim"]) -> None:
        several = distributed.is_available() and distributed.is_initialized()
        self.processes = distributed.get_world_size() if several else 1
        self.rank = distributed.get_rank() if several else 0
        self.items, self.positions = latents.shape[:2]
        seed = torch.randint(2**31, ()).to(latents.device)
        facts = torch.stack([torch.isfinite(latents).all().long(), seed])
        if self.processes > 1:
            distributed.all_reduce(facts, distributed.ReduceOp.MIN)  # of the seeds too: one and the same for all
        finite, seed = facts.tolist()
        self.finite = bool(finite)
        """False where any process holds a NaN or an Inf, of which no codebook may learn."""
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Latents of all processes together."""
        return self.items * self.positions * self.processes

    def integer(self, below: int) -> int:
        """A uniform draw from 0 … below − 1."""
        return int(torch.randint(below, (), generator=self.generator))

    def choose(self, count: int, among: int) -> Tensor:
        """`count` different numbers from 0 … among − 1; repeated ones where there are too few."""
        if count <= among:
            return torch.randperm(among, generator=self.generator)[:count]
        return torch.randint(among, (count,), generator=self.generator)

    def draw(self, vectors: Float[Tensor, "items positions dim"], count: int) -> Float[Tensor, "count dim"]:
        """Vectors of randomly chosen latents of all processes."""
        chosen = self.choose(count, len(self))
        item, position = chosen // self.positions, chosen % self.positions
        mine = item % self.processes == self.rank
        rows = vectors.new_zeros(count, vectors.shape[-1])
        rows[mine.to(rows.device)] = vectors[item[mine] // self.processes, position[mine]]
        return self._total(rows)

    def tally(
        self, vectors: Float[Tensor, "items positions dim"], index: Int64[Tensor, "items positions"], entries: int
    ) -> tuple[Float[Tensor, " entries"], Float[Tensor, "entries dim"]]:
        """How many latents chose each entry, and the sum of those that did."""
        flat = F.pad(vectors.flatten(0, 1), (0, 1), value=1.0)
        table = self._total(flat.new_zeros(entries, flat.shape[1]).index_add_(0, index.flatten(), flat))
        return table[:, -1], table[:, :-1]

    def _total(self, values: Tensor) -> Tensor:
        if self.processes > 1:
            distributed.all_reduce(values)
        return values


def kmeans(
    vectors: Float[Tensor, "items positions dim"], entries: int, batch: Batch, *, spherical: bool = False
) -> tuple[Float[Tensor, "entries dim"], Float[Tensor, " entries"]]:
    """Lloyd's algorithm from randomly drawn latents → (means, how many latents lie nearest each).

    spherical  means are scaled to unit length, as the vectors are
    """
    means = batch.draw(vectors, entries)
    for _ in range(KMEANS_STEPS):
        counts, sums = batch.tally(vectors, nearest(vectors, means), entries)
        fresh = sums / counts.clamp_min(1)[:, None]
        means = torch.where(counts[:, None] > 0, F.normalize(fresh, dim=1) if spherical else fresh, means)
    return means, counts
