"""SEANet: the convolutional encoder and decoder of SoundStream and EnCodec.

Modules are ordered and nested like `model.{i}` of EnCodec, so its weights load. Weight normalization is left out, and
the LSTM is optional.
Source: Tagliasacchi et al. (arXiv 2009.02095); Défossez et al. (EnCodec, arXiv 2210.13438), §3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..layers import inference, tracing
from ..quantizers import MAX_DIM
from ..validate import are_integers, require_integer

Waveforms = Float[Tensor, "batch _ _"]


@dataclass(frozen=True)
class Layers:
    """Options of the layers of a SEANet. The defaults are those of tokenloom's own codecs.

    Attributes:
        causal: Pad on the left only; otherwise on both sides, with the odd sample on the left.
        reflect: Pad with the mirror image of the signal instead of zeros. The first code then depends on later samples.
        norm: Normalize the output of every convolution over all channels and times (a GroupNorm of one group).
        shortcut: Put a convolution into the shortcut of each residual unit; otherwise it is the identity.
    """

    causal: bool = True
    reflect: bool = False
    norm: bool = False
    shortcut: bool = True


OURS = Layers()
BOUNDS = {
    "channels": (1, 2), "sample_rate": (1, 384_000), "filters": (2, 1024), "residual": (0, 16), "lstm": (0, 8),
}  # fmt: skip
"""Bounds of each argument."""


def check(name: str, ratios: Any, **given: Any) -> None:
    """Raise ValueError unless the arguments are within BOUNDS and `ratios` are valid. The message names the codec."""
    for key, value in given.items():
        require_integer(f"{key} of {name}", value, *BOUNDS[key])
    if not are_integers(ratios, 1, 64, longest=8) or given["filters"] * 2 ** len(ratios) > MAX_DIM:
        raise ValueError(
            f"ratios of {name} must be 1 to 8 integers from 1 to 64, got {ratios!r:.80}; "
            f"each doubles the {given['filters']} filters, to at most {MAX_DIM}"
        )


class ELU(nn.ELU):
    """ELU that overwrites its input if no gradient needs it: new memory costs as much as the function."""

    def forward(self, x: Waveforms) -> Waveforms:
        return F.elu_(x) if inference.overwrites(x) else super().forward(x)


class Conv1d(nn.Module):
    """Convolution to ceil(samples / stride) samples. Padding is kernel − stride, plus the rest of the last stride."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, layers: Layers = OURS
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation)
        self.norm = nn.GroupNorm(1, outputs) if layers.norm else nn.Identity()
        self.padding = (kernel - 1) * dilation + 1 - stride
        self.stride = stride
        self.layers = layers

    def forward(self, x: Waveforms) -> Waveforms:
        right = 0 if self.layers.causal else self.padding // 2
        left = self.padding - right
        if self.layers.reflect and tracing.exporting():
            return self.norm(self.conv(reflect_by_index(x, left, right, self.stride)))
        ends = (left, right + -x.shape[-1] % self.stride)
        return self.norm(self.conv(reflect(x, *ends) if self.layers.reflect else F.pad(x, ends)))


def reflect(x: Waveforms, left: int, right: int) -> Waveforms:
    """Pad a signal with its mirror image. Zeros extend a signal that is too short, as in EnCodec."""
    if not (left or right):
        return x
    missing = max(0, max(left, right) + 1 - x.shape[-1])
    x = F.pad(x, (0, missing)) if missing else x
    ends = x[..., 1 : left + 1].flip(-1), x[..., x.shape[-1] - 1 - right : -1].flip(-1)
    padded = torch.cat([ends[0], x, ends[1]], -1)  # F.pad's reflection is slower: 12 % of the encoding time
    return padded[..., : padded.shape[-1] - missing]


def reflect_by_index(x: Waveforms, left: int, right: int, stride: int) -> Waveforms:
    """Pad like `reflect`, up to whole strides, with a trace that is valid for every length."""
    if not (left or right) and stride == 1:
        return x
    samples = x.shape[-1]
    whole = (samples + stride - 1) // stride * stride
    count = torch.full((), samples)
    mirror = torch.maximum(count, 1 + torch.maximum(torch.full((), left), right + whole - count)) - 1
    place = (torch.arange(left + whole + right) - left).abs()
    place = mirror - (mirror - place).abs()
    return x.index_select(-1, place.clamp_max(samples - 1)) * (place < samples)


class ConvTranspose1d(nn.Module):
    """Transposed convolution to samples · stride. The overhang is cut off at the side on which `Conv1d` pads."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, layers: Layers = OURS) -> None:
        super().__init__()
        self.convtr = nn.ConvTranspose1d(inputs, outputs, kernel, stride)
        self.norm = nn.GroupNorm(1, outputs) if layers.norm else nn.Identity()
        overhang = kernel - stride
        self.left = 0 if layers.causal else overhang - overhang // 2

    def forward(self, x: Waveforms) -> Waveforms:
        stride = self.convtr.stride[0]
        fast = inference.overwrites(x) and self.convtr.kernel_size[0] == 2 * stride
        y = self.norm(self._by_phase(x, stride) if fast else self.convtr(x))  # EnCodec normalizes before it cuts
        return y[..., self.left : self.left + x.shape[-1] * stride]

    def _by_phase(self, x: Waveforms, stride: int) -> Waveforms:
        """Compute the transposed convolution as a convolution of two taps.

        The library's own transposed convolution of few channels takes up to seven times as long.
        """
        phases = F.conv1d(x, *self.by_phase(), padding=1)
        return phases.unflatten(1, (-1, stride)).transpose(2, 3).flatten(2)

    def by_phase(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a convolution of two taps, with an output channel for each phase of the stride."""
        (stride,) = self.convtr.stride
        taps = self.convtr.weight.unflatten(2, (2, stride)).flip(2).permute(1, 3, 0, 2).flatten(0, 1)
        assert self.convtr.bias is not None
        return taps.contiguous(), self.convtr.bias.repeat_interleave(stride)


class ResidualUnit(nn.Module):
    """Residual unit: shortcut(x) + conv(elu(dilated conv(elu(x)))), with half the channels in between."""

    def __init__(self, channels: int, dilation: int, layers: Layers = OURS) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(),
            Conv1d(channels, channels // 2, 3, dilation=dilation, layers=layers),
            ELU(),
            Conv1d(channels // 2, channels, 1, layers=layers),
        )
        self.shortcut = Conv1d(channels, channels, 1, layers=layers) if layers.shortcut else nn.Identity()

    def forward(self, x: Waveforms) -> Waveforms:
        if inference.overwrites(x):
            return self.block(x).add_(self.shortcut(x))
        return self.shortcut(x) + self.block(x)


class LSTM(nn.Module):
    """LSTM over time with a skip connection, the bottleneck of EnCodec."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x: Waveforms) -> Waveforms:
        frames = x.permute(2, 0, 1)
        y = tracing.lstm(frames, self.lstm) if tracing.exporting() else self.lstm(frames)[0]
        return x + y.permute(1, 2, 0)


def autoencoder(
    channels: int, filters: int, ratios: list[int], dim: int, *, residual: int = 1, lstm: int = 0,
    layers: Layers = OURS,
) -> tuple[nn.Sequential, nn.Sequential]:  # fmt: skip
    """Return an encoder (batch, channels, samples) → (batch, dim, frames), and a decoder, its mirror image."""
    width = filters
    encoder: list[nn.Module] = [Conv1d(channels, width, 7, layers=layers)]
    for ratio in reversed(ratios):
        encoder += [ResidualUnit(width, 2**i, layers) for i in range(residual)]
        encoder += [ELU(), Conv1d(width, 2 * width, 2 * ratio, ratio, layers=layers)]
        width *= 2
    encoder += [LSTM(width, lstm)] if lstm else []
    encoder += [ELU(), Conv1d(width, dim, 7, layers=layers)]
    decoder: list[nn.Module] = [Conv1d(dim, width, 7, layers=layers)]
    decoder += [LSTM(width, lstm)] if lstm else []
    for ratio in ratios:
        decoder += [ELU(), ConvTranspose1d(width, width // 2, 2 * ratio, ratio, layers)]
        width //= 2
        decoder += [ResidualUnit(width, 2**i, layers) for i in range(residual)]
    last = Conv1d(width, channels, 7, layers=layers)
    pair = nn.Sequential(*encoder), nn.Sequential(*decoder, ELU(), last)
    for half in pair:
        _initialize(half)
    if not layers.norm:
        nn.init.normal_(last.conv.weight, std=1e-3)  # start from silence
    return pair


def _initialize(network: nn.Module) -> None:
    """Draw weights that preserve the variance of a signal, and set biases to zero.

    With PyTorch's own initialization a quiet waveform vanishes. Latents are then the biases, and all codes are equal.
    Source: He et al. (arXiv 1502.01852), eq. 10, with 1 as the gain of ELU.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            fan = (
                module.in_channels * module.kernel_size[0] / module.stride[0] ** isinstance(module, nn.ConvTranspose1d)
            )
            nn.init.normal_(module.weight, std=fan**-0.5)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualUnit):  # the sum of two branches of equal variance
            for branch in (module.shortcut, module.block[-1]):
                if isinstance(branch, Conv1d):
                    nn.init.normal_(branch.conv.weight, std=(2 * branch.conv.in_channels) ** -0.5)
