"""A decoder-only transformer over integers: it predicts the next id and knows nothing of modalities.

Pre-norm RMSNorm (arXiv 1910.07467), rotary positions (2104.09864), SwiGLU (2002.05202), normalised queries and
keys (2302.05442), grouped-query attention (2305.13245), the output tied to the embedding. Beside each id comes a
`place`: where the *next* id stands in its segment, an integer that the caller counts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE_BASE = 10_000.0
EPSILON = 1e-6


class _Normalise(torch.autograd.Function):
    """x / rms(x) · weight with its gradient by hand: half the time of PyTorch's on a CPU, and a seventh of a step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(EPSILON).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, weight, scale)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        unit, weight, scale = ctx.saved_tensors
        to_weight = (grad * unit).sum_to_size(weight.shape)
        grad = grad * weight
        along = torch.linalg.vecdot(grad, unit).unsqueeze(-1).div_(unit.shape[-1])
        return torch.addcmul(grad, unit, along, value=-1).mul_(scale), to_weight


class RMSNorm(nn.Module):
    """x / rms(x) · weight, the mean over the last axis, computed in float32 whatever autocast says.

    shape  of the weight: (width,), or (heads, head_dim) for a weight of its own for each head
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return _Normalise.apply(x.float(), self.weight.float()).to(self.weight.dtype)


class Cache:
    """Keys and values of the ids seen so far, one row per sequence; rows may have different lengths.

    keys, values  (layers, batch, kv_heads, capacity, head_dim), allocated once and written in place
    lengths       (batch,) int64: how many ids each row holds; what lies behind is overwritten. Rows that were
                  padded on the right are cut to their own length by setting it.
    """

    def __init__(self, transformer: Transformer, batch: int, capacity: int | None = None) -> None:
        c = transformer.config
        capacity = c["context"] if capacity is None else capacity
        if not 1 <= capacity <= c["context"]:
            raise ValueError(f"a cache of {capacity} ids is not within 1 and the context of {c['context']}")
        weight = transformer.embedding.weight
        shape = (c["layers"], batch, c["kv_heads"], capacity, c["width"] // c["heads"])
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        self._rows = torch.arange(batch, device=weight.device)[:, None]
        self._positions: Tensor | slice = slice(0, 0)
        self._end = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def advance(self, steps: int) -> tuple[Tensor, Tensor | None]:
        """Make room for `steps` ids a row → their positions (batch or 1, steps), and which keys each may attend to.

        The mask is bool (batch, 1, steps, longest row), or None where the new ids come first and each sees those
        before it. Raises ValueError beyond the capacity.
        """
        low, high = (int(n) for n in self.lengths.aminmax())
        self._end = high + steps
        if self._end > self.capacity:
            raise ValueError(f"{self._end} ids do not fit into a cache of {self.capacity}")
        new = torch.arange(steps, device=self.lengths.device)
        positions = self.lengths[:, None] + new
        self._positions = slice(low, low + steps) if low == high else positions
        self.lengths = self.lengths + steps
        if high == 0:
            return positions[:1], None
        seen = torch.arange(self._end, device=new.device) <= positions[:, None, :, None]
        return (positions[:1] if low == high else positions), seen

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values (batch, kv_heads, steps, head_dim) → those of all ids so far."""
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if isinstance(self._positions, slice):
                store[:, :, self._positions] = new
            else:
                store[self._rows, :, self._positions] = new.transpose(1, 2).to(store.dtype)
        return self.keys[layer, :, :, : self._end], self.values[layer, :, :, : self._end]

    def select(self, rows: Tensor) -> None:
        """Keep these rows (int64), in this order; one may be taken several times."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths, self._rows = self.lengths[rows], torch.arange(len(rows), device=rows.device)[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x (batch, steps, heads, head_dim), cos and sin (batch or 1, steps, 1, head_dim / 2)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Grouped-query attention: q (batch, heads, n, dim), k and v (batch, kv_heads, m, dim) → like q.

    mask  float, 0 or −inf, (batch, 1, n, m); None: all, or those up to one's own position where `causal`
    """
    groups = q.shape[1] // k.shape[1]
    if q.shape[2] == 1:  # the heads of a group are the queries of one head: nothing is repeated
        grouped = q.view(q.shape[0], k.shape[1], groups, -1)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).view(q.shape)
    if q.device.type == "cpu" and torch.is_grad_enabled():
        return _products(q, k, v, mask, causal)
    if mask is not None and groups > 1:  # no fused kernel on a GPU takes both a mask and groups
        k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=groups > 1)


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """The same by plain matrix products: on a CPU, PyTorch's fused kernel is seven times slower backwards."""
    (batch, heads, n, dim), (kv_heads, m) = q.shape, k.shape[1:3]
    if causal:
        mask = torch.full((n, m), -math.inf, dtype=q.dtype).triu(1)
    scores = (q * dim**-0.5).reshape(batch, kv_heads, -1, dim) @ k.mT
    if mask is not None:
        scores.view(batch, heads, n, m).add_(mask)
    return (scores.softmax(-1, dtype=scores.dtype) @ v).view(q.shape)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = heads, kv_heads, width // heads
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.dim, bias=False)
        self.qk_norm = RMSNorm(heads + kv_heads, self.dim)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, view: View, layer: int) -> Tensor:
        batch, steps, _ = x.shape
        qkv = self.qkv(x).view(batch, steps, -1, self.dim)
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], 2)
        qk = rotate(self.qk_norm(qk), view.cos, view.sin).to(v.dtype)
        q, k = qk.transpose(1, 2).split([self.heads, self.kv_heads], 1)
        v = v.transpose(1, 2)
        if view.cache is not None:
            k, v = view.cache.write(layer, k, v)
            k, v = k.to(q.dtype), v.to(q.dtype)
        return self.out(attend(q, k, v, view.mask, view.causal).transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, heads, kv_heads)
        self.feed_norm = RMSNorm(width)
        self.feed = SwiGLU(width, hidden)
        self.dropout = dropout

    def forward(self, x: Tensor, view: View, layer: int) -> Tensor:
        x = x + F.dropout(self.attention(self.attention_norm(x), view, layer), self.dropout, self.training)
        return x + F.dropout(self.feed(self.feed_norm(x)), self.dropout, self.training)


class View:
    """What all layers share in one pass: rotations, who may attend to whom, and the cache."""

    def __init__(self, cos: Tensor, sin: Tensor, mask: Tensor | None, causal: bool, cache: Cache | None) -> None:
        self.cos, self.sin, self.mask, self.causal, self.cache = cos, sin, mask, causal, cache


class Transformer(nn.Module):
    """Ids and places → hidden states → logits of the next id.

    vocabulary  number of ids; places: number of places
    width       of the residual stream; heads · head_dim = width, head_dim even; kv_heads divides heads
    hidden      width of the feed-forward layers; None: 8/3 · width, rounded up to a multiple of 32
    dropout     on the embedding and on both residual branches, in training only
    context     most ids in one sequence
    Raises ValueError where the numbers do not fit together.
    """

    def __init__(
        self,
        vocabulary: int,
        places: int,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        kv_heads: int = 2,
        hidden: int | None = None,
        dropout: float = 0.0,
        context: int = 1024,
    ) -> None:
        super().__init__()
        hidden = 32 * math.ceil(8 * width / 96) if hidden is None else hidden
        self.config = {
            "vocabulary": vocabulary, "places": places, "width": width, "layers": layers, "heads": heads,
            "kv_heads": kv_heads, "hidden": hidden, "dropout": dropout, "context": context,
        }  # fmt: skip
        _check(self.config)
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(places, width)
        self.blocks = nn.ModuleList(Block(width, heads, kv_heads, hidden, dropout) for _ in range(layers))
        self.norm = RMSNorm(width)
        half = width // heads // 2
        angles = torch.arange(context)[:, None] * ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Each block starts as the identity: its output projections are zero."""
        for name, weight in self.named_parameters():
            if name.endswith(("attention.out.weight", "feed.down.weight")):
                weight.zero_()
            elif "norm" not in name:
                embedding = name.startswith(("embedding", "places"))
                weight.normal_(std=0.02 if embedding else weight.shape[1] ** -0.5)

    def forward(
        self,
        ids: Tensor,
        places: Tensor,
        *,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Ids and the place of the id after each, both (batch, steps) int64 → hidden states (batch, steps, width).

        documents  (batch, steps) int64: an id attends only to those of its own number
        positions  (batch, steps) int64 for the rotations, below the context; default 0, 1, …
        cache      what came before; the new ids continue each row and are added to it
        Raises ValueError where shapes differ, the context is exceeded, or a cache comes with either of the two.
        """
        steps = ids.shape[-1]
        if ids.ndim != 2 or places.shape != ids.shape:
            raise ValueError(f"ids {tuple(ids.shape)} and places {tuple(places.shape)} are not of one (batch, steps)")
        if steps > self.config["context"]:
            raise ValueError(f"{steps} ids do not fit into a context of {self.config['context']}")
        x = F.rms_norm(self.embedding(ids) + self.places(places), (self.config["width"],))
        x = F.dropout(x, self.config["dropout"], self.training)
        view = self._view(x, documents, positions, cache)
        for layer, block in enumerate(self.blocks):
            x = block(x, view, layer)
        return self.norm(x)

    def _view(self, x: Tensor, documents: Tensor | None, positions: Tensor | None, cache: Cache | None) -> View:
        steps, mask = x.shape[1], None
        if cache is not None:
            if documents is not None or positions is not None:
                raise ValueError("a cache counts positions itself and holds one document a row")
            positions, mask = cache.advance(steps)
        elif documents is not None:
            if documents.shape != x.shape[:2]:
                raise ValueError(f"documents {tuple(documents.shape)} are not of the ids' {tuple(x.shape[:2])}")
            mask = documents[:, None, :, None] == documents[:, None, None, :]
            mask = mask & torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
        if positions is None:
            cos, sin = self.cos[None, :steps, None], self.sin[None, :steps, None]
        else:
            if cache is None and (last := int(positions.max())) >= len(self.cos):
                raise ValueError(f"positions reach {last}; a context of {len(self.cos)} ends before it")
            cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        if mask is not None:  # added to the scores, in their type: what every kernel takes without a conversion
            kind = x.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.embedding.weight.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=x.device).masked_fill_(~mask, -math.inf)
        return View(cos, sin, mask, mask is None and steps > 1, cache)

    def logits(self, hidden: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Hidden states (…, width) → float32 (…, ids): of the `allowed` ids (int64), in their order, or of all."""
        weight = self.embedding.weight
        return F.linear(hidden, weight if allowed is None else weight[allowed]).float()

    def losses(self, hidden: Tensor, targets: Tensor, kinds: Tensor, allowed: list[Tensor]) -> Tensor:
        """Cross-entropy in nats, float32 (n,), with the softmax over the ids that may come.

        hidden   (n, width); targets and kinds (n,) int64
        allowed  of each kind the ids that may come, ascending
        A target outside allowed[kind] has probability zero: its loss is infinite.
        """
        if not len(hidden) == len(targets) == len(kinds):
            raise ValueError(f"{len(hidden)} hidden states, {len(targets)} targets, {len(kinds)} kinds: not as many")
        if not len(hidden):
            return hidden.new_zeros(0, dtype=torch.float32)
        order = kinds.argsort(stable=True)
        counts = kinds.bincount(minlength=len(allowed)).tolist()
        if len(counts) > len(allowed):
            raise ValueError(f"kind {len(counts) - 1} is none of 0 to {len(allowed) - 1}")
        present = [kind for kind, count in enumerate(counts) if count]
        ids = [allowed[kind] for kind in present]
        # one look-up for all kinds: its gradient then is one pass over the embedding
        weights = self.embedding.weight[torch.cat(ids)].split([len(i) for i in ids])
        sizes = [counts[kind] for kind in present]
        rows, wanted = hidden[order].split(sizes), targets[order].split(sizes)
        parts = [_cross_entropy(*part) for part in zip(rows, weights, ids, wanted, strict=True)]
        return torch.empty_like(order, dtype=torch.float32).scatter(0, order, torch.cat(parts))


def _cross_entropy(hidden: Tensor, weight: Tensor, allowed: Tensor, targets: Tensor) -> Tensor:
    """Of one kind: hidden (n, width), weight (ids, width), allowed (ids,) ascending, targets (n,) → nats (n,)."""
    place = torch.searchsorted(allowed, targets).clamp_(max=len(allowed) - 1)
    nats = F.cross_entropy(F.linear(hidden, weight).float(), place, reduction="none")
    return nats.masked_fill(allowed[place] != targets, math.inf)


def _check(c: dict) -> None:
    """ValueError where a transformer's numbers do not fit together."""
    for name, value in c.items():
        if name != "dropout" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} {value!r} is not a positive whole number")
    if not isinstance(c["dropout"], int | float) or not 0 <= c["dropout"] < 1:
        raise ValueError(f"dropout {c['dropout']!r} is not within 0 and 1")
    if c["width"] % (2 * c["heads"]):
        raise ValueError(f"width {c['width']} does not divide into {c['heads']} heads of an even size")
    if c["heads"] % c["kv_heads"]:
        raise ValueError(f"{c['heads']} heads do not divide into {c['kv_heads']} groups of kv_heads")
