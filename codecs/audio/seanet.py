"""SEANet: the convolutional encoder and decoder of SoundStream and EnCodec.

Tagliasacchi et al. (arXiv 2009.02095); Défossez et al. (EnCodec, arXiv 2210.13438), §3.1. Modules are
laid out in the order, and under the nesting, of EnCodec's own `model.{i}`, so that its weights can be
loaded; weight normalisation is left to training recipes, the LSTM is an option (`lstm` layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..quantizers import MAX_DIM
from ..validate import are_integers, is_integer

Waves = Float[Tensor, "batch _ _"]


@dataclass(frozen=True)
class Layers:
    """What the layers of a SEANet do beside convolving; by default, what our own codecs do.

    causal    a signal is padded on its left alone; else on both sides, the odd sample on the left
    reflect   it is padded with its own mirror image, else with zeros. The beginning then hears what follows it
    norm      every convolution's output is normalised over all channels and times (a GroupNorm of one group)
    shortcut  a convolution leads around each residual unit, else nothing does
    """

    causal: bool = True
    reflect: bool = False
    norm: bool = False
    shortcut: bool = True


OURS = Layers()
WHOLES = {
    "channels": (1, 2), "sample_rate": (1, 384_000), "filters": (2, 1024), "residual": (0, 16), "lstm": (0, 8),
}  # fmt: skip
"""Least and most of what a network is built from."""


def check(name: str, ratios: Any, **given: Any) -> None:
    """Raise one line, of the codec `name`, where numbers of `WHOLES` and `ratios` make no network."""
    for key, value in given.items():
        low, high = WHOLES[key]
        if not is_integer(value, low, high):
            raise ValueError(f"{key} {value!r:.80} of {name} is no whole number from {low} to {high}")
    if not are_integers(ratios, 1, 64, longest=8) or given["filters"] * 2 ** len(ratios) > MAX_DIM:
        raise ValueError(
            f"ratios are a list of whole numbers from 1 to 64, not {ratios!r:.80}; "
            f"each doubles the {given['filters']} filters, to at most {MAX_DIM}"
        )


class Conv1d(nn.Module):
    """Convolution to ceil(samples / stride): kernel − stride samples of padding, and more to complete a stride."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, layers: Layers = OURS
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation)
        self.norm = nn.GroupNorm(1, outputs) if layers.norm else nn.Identity()
        self.padding = (kernel - 1) * dilation + 1 - stride
        self.stride = stride
        self.layers = layers

    def forward(self, x: Waves) -> Waves:
        right = 0 if self.layers.causal else self.padding // 2
        ends = (self.padding - right, right + -x.shape[-1] % self.stride)
        return self.norm(self.conv(reflect(x, *ends) if self.layers.reflect else F.pad(x, ends)))


def reflect(x: Waves, left: int, right: int) -> Waves:
    """Continue a signal by its mirror image; where it is too short for that, zeros follow it first, as in EnCodec."""
    if not (left or right):
        return x
    missing = max(0, max(left, right) + 1 - x.shape[-1])
    x = F.pad(x, (0, missing)) if missing else x
    ends = x[..., 1 : left + 1].flip(-1), x[..., x.shape[-1] - 1 - right : -1].flip(-1)
    padded = torch.cat([ends[0], x, ends[1]], -1)  # F.pad's reflection copies sample by sample: 12 % of an encoding
    return padded[..., : padded.shape[-1] - missing]


class ConvTranspose1d(nn.Module):
    """Transposed convolution to samples · stride; its overhang is cut off where `Conv1d` would have padded."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, layers: Layers = OURS) -> None:
        super().__init__()
        self.convtr = nn.ConvTranspose1d(inputs, outputs, kernel, stride)
        self.norm = nn.GroupNorm(1, outputs) if layers.norm else nn.Identity()
        overhang = kernel - stride
        self.left = 0 if layers.causal else overhang - overhang // 2

    def forward(self, x: Waves) -> Waves:
        y = self.norm(self.convtr(x))  # EnCodec normalises before it cuts
        return y[..., self.left : self.left + x.shape[-1] * self.convtr.stride[0]]


class ResidualUnit(nn.Module):
    """x + conv(elu(dilated conv(elu(x)))), with half the channels in between; shortcut as in EnCodec."""

    def __init__(self, channels: int, dilation: int, layers: Layers = OURS) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(),
            Conv1d(channels, channels // 2, 3, dilation=dilation, layers=layers),
            nn.ELU(),
            Conv1d(channels // 2, channels, 1, layers=layers),
        )
        self.shortcut = Conv1d(channels, channels, 1, layers=layers) if layers.shortcut else nn.Identity()

    def forward(self, x: Waves) -> Waves:
        return self.shortcut(x) + self.block(x)


class LSTM(nn.Module):
    """A skip-connected LSTM over time, as EnCodec's bottleneck has."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x: Waves) -> Waves:
        return x + self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)


def encoder(
    channels: int, filters: int, ratios: list[int], dim: int, *, residual: int = 1, lstm: int = 0,
    layers: Layers = OURS,
) -> nn.Sequential:  # fmt: skip
    """(batch, channels, samples) → (batch, dim, frames); `ratios` from the decoder's end, as in EnCodec."""
    width = filters
    stack: list[nn.Module] = [Conv1d(channels, width, 7, layers=layers)]
    for ratio in reversed(ratios):
        stack += [ResidualUnit(width, 2**i, layers) for i in range(residual)]
        stack += [nn.ELU(), Conv1d(width, 2 * width, 2 * ratio, ratio, layers=layers)]
        width *= 2
    stack += [LSTM(width, lstm)] if lstm else []
    return nn.Sequential(*stack, nn.ELU(), Conv1d(width, dim, 7, layers=layers))


def decoder(
    channels: int, filters: int, ratios: list[int], dim: int, *, residual: int = 1, lstm: int = 0,
    layers: Layers = OURS,
) -> nn.Sequential:  # fmt: skip
    """(batch, dim, frames) → (batch, channels, samples), the mirror of `encoder`."""
    width = filters * 2 ** len(ratios)
    stack: list[nn.Module] = [Conv1d(dim, width, 7, layers=layers)]
    stack += [LSTM(width, lstm)] if lstm else []
    for ratio in ratios:
        stack += [nn.ELU(), ConvTranspose1d(width, width // 2, 2 * ratio, ratio, layers)]
        width //= 2
        stack += [ResidualUnit(width, 2**i, layers) for i in range(residual)]
    return nn.Sequential(*stack, nn.ELU(), Conv1d(width, channels, 7, layers=layers))


def initialise(network: nn.Module) -> None:
    """Weights that keep the variance of a signal from layer to layer, and no biases.

    He et al. (arXiv 1502.01852), eq. 10, ELU's gain taken as 1; PyTorch's own start lets a quiet waveform
    die out, and then the latents of a residual quantizer are the biases: every code the same.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            fan = (
                module.in_channels * module.kernel_size[0] / module.stride[0] ** isinstance(module, nn.ConvTranspose1d)
            )
            nn.init.normal_(module.weight, std=fan**-0.5)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualUnit):  # two branches of equal variance are added
            for branch in (module.shortcut, module.block[-1]):
                if isinstance(branch, Conv1d):
                    nn.init.normal_(branch.conv.weight, std=(2 * branch.conv.in_channels) ** -0.5)
