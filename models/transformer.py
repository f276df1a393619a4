"""A decoder-only transformer over integers. It predicts the next id and does not know modalities.

Pre-norm RMSNorm (arXiv 1910.07467), rotary positions (2104.09864), SwiGLU (2002.05202), normalized queries and keys
(2302.05442), grouped-query attention (2305.13245), output weights tied to the embedding. Each id comes with a `place`,
the position of the *next* id within its segment, which the caller computes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import KeyValueCache
from .layers import Projection, RootMeanSquareNorm, SharedInputs, TransformerBlock

ROPE_BASE = 10_000.0


class Transformer(nn.Module):
    """A network that maps ids and places to hidden states, and these to logits of the next id.

    Args:
        vocabulary: Number of ids.
        places: Number of places.
        width: Width of the residual stream, heads · head_dim, with an even head_dim.
        layers: Number of blocks.
        heads: Number of query heads.
        kv_heads: Number of key and value heads; a divisor of heads.
        hidden: Width of the feed-forward layers; default: 8/3 · width, rounded up to a multiple of 32.
        dropout: Dropout rate on the embedding and on both residual branches, in training only.
        context: Largest number of ids in a sequence.

    Raises:
        ValueError: If an argument is out of range, or heads do not divide the width, or kv_heads the heads.
    """

    def __init__(
        self, vocabulary: int, places: int, width: int = 256, layers: int = 6, heads: int = 4, kv_heads: int = 2,
        hidden: int | None = None, dropout: float = 0.0, context: int = 1024,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = 32 * math.ceil(8 * width / 96) if hidden is None else hidden
        self.config = {
            "vocabulary": vocabulary, "places": places, "width": width, "layers": layers, "heads": heads,
            "kv_heads": kv_heads, "hidden": hidden, "dropout": dropout, "context": context,
        }  # fmt: skip
        _check(self.config)
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(places, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, kv_heads, hidden, dropout) for _ in range(layers))
        self.norm = RootMeanSquareNorm(width)
        half = width // heads // 2
        angles = torch.arange(context)[:, None] * ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        cos, sin = angles.cos().float(), angles.sin().float()
        self.register_buffer("cos", torch.cat([cos, cos], 1), persistent=False)
        self.register_buffer("sin", torch.cat([-sin, sin], 1), persistent=False)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Draw weights. Output projections are zero, so each block starts as the identity."""
        for name, weight in self.named_parameters():
            if name.endswith(("attention.out.weight", "feed.down.weight")):
                weight.zero_()
            elif "norm" not in name:
                embedding = name.startswith(("embedding", "places"))
                weight.normal_(std=0.02 if embedding else weight.shape[1] ** -0.5)

    def forward(
        self, ids: Tensor, places: Tensor, *, documents: Tensor | None = None, positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Compute the hidden state after each id.

        Args:
            ids: int64 (batch, steps).
            places: int64 (batch, steps). The place of the next id.
            documents: int64 (batch, steps). An id attends only to ids of the same document.
            positions: int64 (batch, steps). Positions for the rotations, below the context; default: 0, 1, …
            cache: Cache of the previous ids, to which the new ids are added. It excludes documents and positions.

        Returns:
            (batch, steps, width).

        Raises:
            ValueError: If shapes differ or the context is exceeded.
        """
        steps = ids.shape[-1]
        if ids.ndim != 2 or places.shape != ids.shape:
            raise ValueError(
                f"ids {tuple(ids.shape)} and places {tuple(places.shape)} must have one shape (batch, steps)"
            )
        if steps > self.config["context"]:
            raise ValueError(f"{steps} ids do not fit into a context of {self.config['context']}")
        x = F.rms_norm(self.embedding(ids) + self.places(places), (self.config["width"],))
        x = F.dropout(x, self.config["dropout"], self.training)
        shared = self._shared(x, documents, positions, cache)
        for layer, block in enumerate(self.blocks):
            x = block(x, shared, layer)
        return self.norm(x)

    def use_int8(self) -> Transformer:
        """Sample few rows on a CPU with rounded weights from now on; see `Projection`. Training ignores them."""
        for module in self.modules():
            if isinstance(module, Projection):
                module.use_int8()
        return self

    def new_cache(self, batch: int, capacity: int | None = None) -> KeyValueCache:
        """Return an empty cache for `batch` rows of at most `capacity` ids; default: the context."""
        capacity = self.config["context"] if capacity is None else capacity
        return KeyValueCache(self.config, batch, capacity, self.embedding.weight)

    def _shared(
        self, x: Tensor, documents: Tensor | None, positions: Tensor | None, cache: KeyValueCache | None
    ) -> SharedInputs:
        steps, mask = x.shape[1], None
        if cache is not None:
            if documents is not None or positions is not None:
                raise ValueError("documents and positions must be None with a cache, which counts positions itself")
            positions, mask = cache.advance(steps)
        elif documents is not None:
            if documents.shape != x.shape[:2]:
                raise ValueError(
                    f"documents {tuple(documents.shape)} must have the shape of the ids, {tuple(x.shape[:2])}"
                )
            mask = documents[:, None, :, None] == documents[:, None, None, :]
            mask = mask & torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
        if positions is None:
            cos, sin = self.cos[None, :steps, None], self.sin[None, :steps, None]
        else:
            if cache is None and (last := int(positions.max())) >= len(self.cos):
                raise ValueError(f"positions must be below the context of {len(self.cos)}, got {last}")
            cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        if mask is not None:  # in the type of the scores, which no kernel has to convert
            kind = x.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.embedding.weight.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=x.device).masked_fill_(~mask, -math.inf)
        return SharedInputs(cos, sin, mask, mask is None and steps > 1, cache)

    def logits(self, hidden: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return float32 logits (…, ids) of hidden states (…, width), for the `allowed` ids (int64) or for all."""
        weight = self.embedding.weight
        return F.linear(hidden, weight if allowed is None else weight[allowed]).float()

    def losses(self, hidden: Tensor, targets: Tensor, kinds: Tensor, allowed: list[Tensor]) -> Tensor:
        """Return the cross-entropy of each target under a softmax over the allowed ids.

        Args:
            hidden: (n, width).
            targets: int64 (n,).
            kinds: int64 (n,). Index into `allowed` of each target.
            allowed: The allowed ids of each kind, ascending.

        Returns:
            Nats, float32 (n,); infinite for a target outside allowed[kind].
        """
        if not len(hidden) == len(targets) == len(kinds):
            raise ValueError(
                f"got {len(hidden)} hidden states, {len(targets)} targets, {len(kinds)} kinds; numbers must be equal"
            )
        if not len(hidden):
            return hidden.new_zeros(0, dtype=torch.float32)
        order = kinds.argsort(stable=True)
        counts = kinds.bincount(minlength=len(allowed)).tolist()
        if len(counts) > len(allowed):
            raise ValueError(f"a kind must be 0 to {len(allowed) - 1}, got {len(counts) - 1}")
        present = [kind for kind, count in enumerate(counts) if count]
        ids = [allowed[kind].to(hidden.device) for kind in present]
        # one look-up for all kinds: its gradient is a single pass over the embedding
        weights = self.embedding.weight[torch.cat(ids)].split([len(i) for i in ids])
        sizes = [counts[kind] for kind in present]
        rows, expected = hidden[order].split(sizes), targets[order].split(sizes)
        parts = [_cross_entropy(*part) for part in zip(rows, weights, ids, expected, strict=True)]
        return torch.empty_like(order, dtype=torch.float32).scatter(0, order, torch.cat(parts))


def _cross_entropy(hidden: Tensor, weight: Tensor, allowed: Tensor, targets: Tensor) -> Tensor:
    """Return nats (n,) for one kind, from hidden (n, width), weight (ids, width), allowed (ids,), targets (n,)."""
    place = torch.searchsorted(allowed, targets).clamp_(max=len(allowed) - 1)
    nats = F.cross_entropy(F.linear(hidden, weight).float(), place, reduction="none")
    return nats.masked_fill(allowed[place] != targets, math.inf)


def _check(c: dict) -> None:
    """Raise ValueError unless the numbers of a transformer fit together."""
    for name, value in c.items():
        if name != "dropout" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if not isinstance(c["dropout"], int | float) or not 0 <= c["dropout"] < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {c['dropout']!r}")
    if c["width"] % (2 * c["heads"]):
        raise ValueError(f"width must be a multiple of 2 · heads, got width {c['width']} and {c['heads']} heads")
    if c["heads"] % c["kv_heads"]:
        raise ValueError(f"heads must be a multiple of kv_heads, got {c['heads']} heads and {c['kv_heads']} kv_heads")
