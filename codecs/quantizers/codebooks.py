"""Nearest-neighbor search in a codebook, k-means, and random draws from a training batch.

vector-quantize-pytorch 1.32 computes the same, but it allocates a matrix of positions × entries, cannot train
L2-normalized codebooks by gradient, and draws other latents with several processes than with one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, distributed

from ..layers import tracing

MAX_DISTANCES = 2**24
"""Most entries of the distance matrix of one chunk of a search (64 MiB)."""
VECTORS, ENTRIES, GROUP = 256, 1024, 32
"""Vectors and entries of a tile of a search on a CPU, and entries of a group."""
FEW = 2**19
"""Most distances that are computed as one matrix."""
KMEANS_STEPS = 10


def nearest(
    vectors: Float[Tensor, "*leading dim"], codebook: Float[Tensor, "entries dim"]
) -> Int64[Tensor, "*leading"]:
    """Return the index of the codebook row with the smallest Euclidean distance to each vector, the first of equals."""
    return nearest_with_lead(vectors, codebook, codebook.square().sum(1))[0]


def nearest_with_lead(
    vectors: Float[Tensor, "*leading dim"], codebook: Float[Tensor, "entries dim"], norms: Float[Tensor, " entries"]
) -> tuple[Int64[Tensor, "*leading"], Float[Tensor, "*leading"]]:
    """Return what `nearest` returns, and how much larger the squared distance to the second nearest row is.

    Computes 2 v · c − ‖c‖² as one matrix product per chunk, so memory is bounded. `norms` holds ‖c‖².
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    if tracing.exporting():
        index = torch.addmm(norms, flat, codebook.T, alpha=-2).argmin(1)
        found = index, torch.zeros_like(flat[:, 0])
    elif flat.device.type == "cpu" and len(flat) * len(codebook) > FEW:
        found = _nearest_in_tiles(flat, codebook, norms)
    else:
        parts = []
        for chunk in tracing.chunks(flat, MAX_DISTANCES // len(codebook)):
            distances = torch.addmm(norms, chunk, codebook.T, alpha=-2)
            index = distances.argmin(1, keepdim=True)
            best = distances.gather(1, index)
            second = distances.scatter_(1, index, math.inf).amin(1, keepdim=True)
            parts.append((index[:, 0], (second - best)[:, 0]))
        found = tuple(torch.cat(values) for values in zip(*parts, strict=True))
    index, lead = found
    return index.reshape(vectors.shape[:-1]), lead.reshape(vectors.shape[:-1])


def _nearest_in_tiles(vectors: Tensor, codebook: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """Search in tiles that stay in the cache of a processor.

    The largest value of each group of entries is found first, for all vectors of the tile at once: an index for each
    vector and entry takes several times as long.
    """
    missing = -len(codebook) % GROUP
    entries = F.pad(2 * codebook, (0, 0, 0, missing))
    bias = F.pad(-norms, (0, missing), value=-math.inf)[:, None]
    found, leads = [], []
    for some in vectors.split(VECTORS):
        best, index = some.new_full((len(some),), -math.inf), torch.zeros(len(some), dtype=torch.int64)
        second, rows = best.clone(), torch.arange(len(some))
        for first in range(0, len(entries), ENTRIES):
            part = slice(first, first + ENTRIES)
            scores = torch.addmm(bias[part], entries[part], some.T).unflatten(0, (-1, GROUP))
            groups = scores.amax(1)
            value, group = groups.max(0)
            members = scores[group, :, rows]
            place = members.argmax(1)
            groups[group, rows] = members[rows, place] = -math.inf
            second = torch.maximum(torch.maximum(second, torch.minimum(best, value)), groups.amax(0))
            second = torch.maximum(second, members.amax(1))
            index = torch.where(value > best, first + GROUP * group + place, index)
            best = torch.maximum(best, value)
        found.append(index)
        leads.append(best - second)
    return torch.cat(found), torch.cat(leads)


class Batch:
    """Latents of one training step, (items, positions, dim), distributed over one or more processes.

    Items go to the processes in turn, as in data/loader.py, and each process has the same number. Sums and random draws
    cover all processes, so the codebooks are identical on every rank.
    """

    def __init__(self, latents: Float[Tensor, "items positions dim"]) -> None:
        several = distributed.is_available() and distributed.is_initialized()
        self.processes = distributed.get_world_size() if several else 1
        self.rank = distributed.get_rank() if several else 0
        self.items, self.positions = latents.shape[:2]
        seed = torch.randint(2**31, ()).to(latents.device)
        shared = torch.stack([torch.isfinite(latents).all().long(), seed])
        if self.processes > 1:
            distributed.all_reduce(shared, distributed.ReduceOp.MIN)  # one seed for all processes
        finite, seed = shared.tolist()
        self.finite = bool(finite)
        """Whether all latents are finite. Codebooks must not learn from other batches."""
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Return the number of latents of all processes."""
        return self.items * self.positions * self.processes

    def integer(self, below: int) -> int:
        """Draw a uniform integer from 0 to below − 1."""
        return int(torch.randint(below, (), generator=self.generator))

    def choose(self, count: int, among: int) -> Tensor:
        """Draw `count` integers from 0 to among − 1, without replacement if count ≤ among."""
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
        """Return the number of latents that each entry is nearest to, and their sum."""
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
    """Run Lloyd's algorithm from randomly drawn latents. Return the means and the number of latents of each.

    `spherical` scales means to unit length. The vectors must have unit length too.
    """
    means = batch.draw(vectors, entries)
    for _ in range(KMEANS_STEPS):
        counts, sums = batch.tally(vectors, nearest(vectors, means), entries)
        fresh = sums / counts.clamp_min(1)[:, None]
        means = torch.where(counts[:, None] > 0, F.normalize(fresh, dim=1) if spherical else fresh, means)
    return means, counts
