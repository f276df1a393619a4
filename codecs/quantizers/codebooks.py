"""Nearest-neighbor search in a codebook, k-means, and random draws from a training batch.

vector-quantize-pytorch 1.32 has the same arithmetic, but lacks three properties of this module: no matrix of positions
× entries is held in memory; L2-normalized codebooks can train by gradient; and several processes draw the same latents
for k-means and revival as one process with the whole batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, distributed

from ..layers import tracing

MAX_DISTANCES = 2**24
"""Most entries of the distance matrix of one chunk of a search (64 MiB)."""
KMEANS_STEPS = 10


def nearest(
    vectors: Float[Tensor, "*leading dim"], codebook: Float[Tensor, "entries dim"]
) -> Int64[Tensor, "*leading"]:
    """Return the index of the codebook row with the smallest Euclidean distance to each vector.

    Computes ‖v − c‖² − ‖v‖² as one matrix product per chunk, so memory is bounded.
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    norms = codebook.square().sum(1)
    chunks = tracing.chunks(flat, MAX_DISTANCES // len(codebook))
    index = torch.cat([torch.addmm(norms, chunk, codebook.T, alpha=-2).argmin(1) for chunk in chunks])
    return index.reshape(vectors.shape[:-1])


class Batch:
    """The latents of one training step, (items, positions, dim), spread over one or more processes.

    Items are distributed in turn, the same number to each process, as in data/loader.py. Sums run over all processes,
    and all of them draw the same, so codebooks stay identical on every rank.
    """

    def __init__(self, latents: Float[Tensor, "items positions dim"]) -> None:
        several = distributed.is_available() and distributed.is_initialized()
        self.processes = distributed.get_world_size() if several else 1
        self.rank = distributed.get_rank() if several else 0
        self.items, self.positions = latents.shape[:2]
        seed = torch.randint(2**31, ()).to(latents.device)
        facts = torch.stack([torch.isfinite(latents).all().long(), seed])
        if self.processes > 1:
            distributed.all_reduce(facts, distributed.ReduceOp.MIN)  # one seed for all processes
        finite, seed = facts.tolist()
        self.finite = bool(finite)
        """False if any process has NaN or Inf; codebooks must not learn from such a batch."""
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Return the number of latents of all processes."""
        return self.items * self.positions * self.processes

    def integer(self, below: int) -> int:
        """Draw a uniform integer from 0 to below − 1."""
        return int(torch.randint(below, (), generator=self.generator))

    def choose(self, count: int, among: int) -> Tensor:
        """Draw `count` numbers from 0 to among − 1, without repetition if there are enough."""
        if count <= among:
            return torch.randperm(among, generator=self.generator)[:count]
        return torch.randint(among, (count,), generator=self.generator)

    def draw(self, vectors: Float[Tensor, "items positions dim"], count: int) -> Float[Tensor, "count dim"]:
        """Return the vectors of randomly drawn latents of all processes."""
        chosen = self.choose(count, len(self))
        item, position = chosen // self.positions, chosen % self.positions
        mine = item % self.processes == self.rank
        rows = vectors.new_zeros(count, vectors.shape[-1])
        rows[mine.to(rows.device)] = vectors[item[mine] // self.processes, position[mine]]
        return self._total(rows)

    def tally(
        self, vectors: Float[Tensor, "items positions dim"], index: Int64[Tensor, "items positions"], entries: int
    ) -> tuple[Float[Tensor, " entries"], Float[Tensor, "entries dim"]]:
        """Return for each entry the number of latents that chose it, and their sum."""
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
    """Run Lloyd's algorithm from randomly drawn latents. Return the means and how many latents are nearest to each.

    With `spherical`, means are scaled to unit length, like the vectors.
    """
    means = batch.draw(vectors, entries)
    for _ in range(KMEANS_STEPS):
        counts, sums = batch.tally(vectors, nearest(vectors, means), entries)
        fresh = sums / counts.clamp_min(1)[:, None]
        means = torch.where(counts[:, None] > 0, F.normalize(fresh, dim=1) if spherical else fresh, means)
    return means, counts
