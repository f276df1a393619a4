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
FEW = 8
"""Rows that a `Projection` multiplies with weights of 8 bits, at most."""


def _scale(x: Tensor) -> Tensor:
    """Return 1 / rms(x) over the last axis. PyTorch's rms_norm takes twice the operations."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(EPSILON).rsqrt_()


class _Normalize(torch.autograd.Function):
    """x / rms(x) · weight with an explicit gradient, twice as fast as PyTorch's on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale = _scale(x)
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
        x, weight = x.float(), self.weight.float()
        if torch.is_grad_enabled():
            return _Normalize.apply(x, weight).to(self.weight.dtype)
        return (x * _scale(x)).mul_(weight).to(self.weight.dtype)


class Projection(nn.Linear):
    """Linear layer without a bias.

    After `use_int8`, up to FEW rows without gradients on a CPU are multiplied with weights of 8 bits, one scale per
    output, in bfloat16. Such weights take a quarter of the time to read. More rows are limited by arithmetic, which is
    faster in float32.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self._rounded: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def use_int8(self) -> None:
        """Round the weights of now to int8 (outputs, inputs) and scales of bfloat16 (outputs,), beside the weights."""
        scales = (self.weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny).bfloat16()
        values = (self.weight / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        self._rounded = values, scales

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[:-1].numel()
        if self._rounded is None or count > FEW or torch.is_grad_enabled() or x.device.type != "cpu":
            return super().forward(x)
        y = torch.ops.aten._weight_int8pack_mm(x.reshape(count, -1).bfloat16(), *self._rounded)
        return y.to(x.dtype).view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class SharedInputs:
    """Inputs that all layers share in one pass: rotations, mask and cache."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    causal: bool
    cache: KeyValueCache | None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x (batch, steps, heads, head_dim).

    cos and sin (batch or 1, steps, 1, head_dim) hold each angle twice, the first sine negated.
    """
    a, b = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat([b, a], -1), sin)


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
        self.qkv = Projection(width, (heads + 2 * kv_heads) * self.dim)
        self.qk_norm = RootMeanSquareNorm(heads + kv_heads, self.dim)
        self.out = Projection(width, width)

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
        self.up = Projection(width, 2 * hidden)
        self.down = Projection(hidden, width)

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
