"""The layers of a SEANet as functions with state (see streams/stages.py)."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..streams.stages import Chain, Stage, joined
from . import seanet

FEW = 64
"""Most results that a matrix product computes faster than a convolution."""


def obstacle(network: nn.Module) -> str | None:
    """Return the reason why a SEANet has no stage; None if it has one."""
    for layer in network.modules():
        if isinstance(layer, seanet.Conv1d | seanet.ConvTranspose1d) and not isinstance(layer.norm, nn.Identity):
            return "its norms average over the whole signal"
        if isinstance(layer, seanet.ConvTranspose1d) and layer.left:
            return "its decoder looks ahead"
    return None


@functools.singledispatch
def stage(module: nn.Module) -> Stage:
    """Return a module as a function with state. Raises TypeError for other modules than those of a SEANet."""
    raise TypeError(f"a stage must be of a SEANet's layers, got {type(module).__name__}")


@stage.register(nn.ELU)
@stage.register(nn.Identity)
class Pointwise:
    """Stage of a function of single values."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        return None if x is None else self.layer(x)


@stage.register(nn.Sequential)
def chain(layers: nn.Sequential) -> Stage:
    """Return the stage of layers that follow each other."""
    return Chain([stage(layer) for layer in layers])


@stage.register(seanet.ResidualUnit)
class Sum:
    """Stage of a residual unit, whose branches may be complete at different times."""

    def __init__(self, unit: seanet.ResidualUnit) -> None:
        self.branches = stage(unit.shortcut), stage(unit.block)
        self.held: list[Tensor | None] = [None, None]

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        a, b = (joined(held, branch(x, last)) for held, branch in zip(self.held, self.branches, strict=True))
        if a is None or b is None:
            self.held = [a, b]
            return None
        count = min(a.shape[-1], b.shape[-1])
        self.held = [_rest(a, count), _rest(b, count)]
        return a[..., :count] + b[..., :count]


class Product:
    """A convolution without padding. For few steps it is a matrix product: a convolution reorders its weights first."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int = 1, dilation: int = 1) -> None:
        self.weight, self.bias, self.stride, self.dilation = weight, bias, stride, dilation
        self.matrix = weight.flatten(1)
        self.reach = (weight.shape[2] - 1) * dilation + 1

    def steps(self, x: Tensor) -> int:
        """Return the number of results for an input (batch, channels, samples)."""
        return max(0, (x.shape[-1] - self.reach) // self.stride + 1)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) * self.steps(x) > FEW:
            return F.conv1d(x, self.weight, self.bias, self.stride, dilation=self.dilation)
        patches = x.unfold(2, self.reach, self.stride)[..., :: self.dilation]
        return F.linear(patches.transpose(1, 2).flatten(2), self.matrix, self.bias).transpose(1, 2)


@stage.register(seanet.Conv1d)
class Convolution:
    """Stage of a convolution. With reflection, it starts when it has all samples of the mirror image."""

    def __init__(self, layer: seanet.Conv1d) -> None:
        self.layer = layer
        self.product = Product(layer.conv.weight, layer.conv.bias, layer.stride, layer.conv.dilation[0])
        self.right = 0 if layer.layers.causal else layer.padding // 2
        self.left = layer.padding - self.right
        self.held: Tensor | None = None
        self.count = 0
        self.started = False

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        layer = self.layer
        self.count += 0 if x is None else x.shape[-1]
        held = joined(self.held, x)
        if held is None:
            return None
        if not self.started:
            if last:
                return layer(held)
            if layer.layers.reflect and self.count <= max(self.left, self.right + layer.stride - 1):
                self.held = held
                return None
            self.started, held = True, self._padded(held, self.left, 0)
        if last:
            held = self._padded(held, 0, self.right + -self.count % layer.stride)
        steps = self.product.steps(held)
        self.held = _rest(held, steps * layer.stride)
        return self.product(held) if steps else None

    def _padded(self, x: Tensor, left: int, right: int) -> Tensor:
        return seanet.reflect(x, left, right) if self.layer.layers.reflect else F.pad(x, (left, right))


@stage.register(seanet.ConvTranspose1d)
class Transposed:
    """Stage of a causal transposed convolution, whose outputs depend on an input and the one before."""

    def __init__(self, layer: seanet.ConvTranspose1d) -> None:
        self.stride = layer.convtr.stride[0]
        self.product = Product(*layer.by_phase())
        self.held: Tensor | None = None

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        if x is None:
            return None
        held = F.pad(x, (1, 0)) if self.held is None else torch.cat([self.held, x], -1)
        self.held = held[..., -1:].clone()
        return self.product(held).unflatten(1, (-1, self.stride)).transpose(2, 3).flatten(2)


@stage.register(seanet.LSTM)
class Recurrence:
    """Stage of an LSTM."""

    def __init__(self, layer: seanet.LSTM) -> None:
        self.layer = layer
        self.state: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        if x is None:
            return None
        y, self.state = self.layer.lstm(x.permute(2, 0, 1), self.state)
        return x + y.permute(1, 2, 0)


class Completed:
    """Stage of a network that gets whole frames: zeros complete the last one.

    Args:
        inner: The stage of the network.
        stride: Samples of a frame.
    """

    def __init__(self, inner: Stage, stride: int) -> None:
        self.inner, self.stride = inner, stride

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        return self.inner(F.pad(x, (0, -x.shape[-1] % self.stride)) if last and x is not None else x, last)


def _rest(x: Tensor, start: int) -> Tensor | None:
    """Return a copy of what follows `start`, which does not keep the rest in memory; None if nothing does."""
    return x[..., start:].clone() if start < x.shape[-1] else None
