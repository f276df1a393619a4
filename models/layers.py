"""Layers of the transformer: norm, rotary positions, attention, feed-forward, block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import KeyValueCache

EPSILON = 1e-6


class _Normalize(torch.autograd.Function):
    """x / rms(x) · weight with an explicit gradient, twice as fast as PyTorch's on a CPU."""

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


class RootMeanSquareNorm(nn.Module):
    """x / rms(x) · weight over the last axis, in float32 regardless of autocast.

    The weight has the shape (width,), or (heads, head_dim) for a weight per head.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return _Normalize.apply(x.float(), self.weight.float()).to(self.weight.dtype)


@dataclass(frozen=True)
class SharedInputs:
    """Inputs that all layers share in one pass: rotations, mask and cache."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    causal: bool
    cache: KeyValueCache | None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x (batch, steps, heads, head_dim); cos, sin (batch or 1, steps, 1, head_dim / 2)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Compute grouped-query attention of q (batch, heads, n, dim) to k and v (batch, kv_heads, m, dim).

    The mask (batch, 1, n, m) is float, 0 or −inf. Without a mask, a query attends to all keys or, if `causal`, to keys
    up to its own position.
    """
    groups = q.shape[1] // k.shape[1]
    if q.shape[2] == 1:  # the heads of a group act as queries of one head, so keys are not repeated
        grouped = q.view(q.shape[0], k.shape[1], groups, -1)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).view(q.shape)
    if q.device.type == "cpu" and torch.is_grad_enabled():
        return _products(q, k, v, mask, causal)
    if mask is not None and groups > 1:  # no fused GPU kernel supports both a mask and groups
        k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=groups > 1)


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attention by matrix products. On a CPU, the backward pass of PyTorch's fused kernel is seven times slower."""
    (batch, heads, n, dim), (kv_heads, m) = q.shape, k.shape[1:3]
    if causal:
        mask = torch.full((n, m), -math.inf, dtype=q.dtype).triu(1)
    scores = (q * dim**-0.5).reshape(batch, kv_heads, -1, dim) @ k.mT
    if mask is not None:
        scores.view(batch, heads, n, m).add_(mask)
    return (scores.softmax(-1, dtype=scores.dtype) @ v).view(q.shape)


class GroupedQueryAttention(nn.Module):
    """Attention with normalized queries and keys and rotary positions."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = heads, kv_heads, width // heads
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.dim, bias=False)
        self.qk_norm = RootMeanSquareNorm(heads + kv_heads, self.dim)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, shared: SharedInputs, layer: int) -> Tensor:
        batch, steps, _ = x.shape
        qkv = self.qkv(x).view(batch, steps, -1, self.dim)
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], 2)
        qk = rotate(self.qk_norm(qk), shared.cos, shared.sin).to(v.dtype)
        q, k = qk.transpose(1, 2).split([self.heads, self.kv_heads], 1)
        v = v.transpose(1, 2)
        if shared.cache is not None:
            k, v = shared.cache.write(layer, k, v)
            k, v = k.to(q.dtype), v.to(q.dtype)
        return self.out(attend(q, k, v, shared.mask, shared.causal).transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Gated feed-forward layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class TransformerBlock(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = RootMeanSquareNorm(width)
        self.attention = GroupedQueryAttention(width, heads, kv_heads)
        self.feed_norm = RootMeanSquareNorm(width)
        self.feed = SwiGLU(width, hidden)
        self.dropout = dropout

    def forward(self, x: Tensor, shared: SharedInputs, layer: int) -> Tensor:
        x = x + F.dropout(self.attention(self.attention_norm(x), shared, layer), self.dropout, self.training)
        return x + F.dropout(self.feed(self.feed_norm(x)), self.dropout, self.training)
