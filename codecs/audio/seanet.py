"""SEANet: the convolutional encoder and decoder of SoundStream and EnCodec, causal.

Tagliasacchi et al. (arXiv 2009.02095); Défossez et al. (EnCodec, arXiv 2210.13438), §3.1. Modules are
laid out in the order, and under the nesting, of EnCodec's own `model.{i}`, so that its weights can be
loaded; weight normalisation is left to training recipes, the LSTM is an option (`lstm` layers).
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Waves = Float[Tensor, "batch _ _"]


class CausalConv1d(nn.Module):
    """Convolution that sees only the past: zeros on the left, kernel − stride of them, more to complete a stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation)
        self.span = (kernel - 1) * dilation + 1
        self.stride = stride

    def forward(self, x: Waves) -> Waves:
        return self.conv(F.pad(x, (self.span - self.stride, -x.shape[-1] % self.stride)))


class CausalConvTranspose1d(nn.Module):
    """Transposed convolution whose right overhang, which would need the future, is cut off."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convtr = nn.ConvTranspose1d(inputs, outputs, kernel, stride)

    def forward(self, x: Waves) -> Waves:
        return self.convtr(x)[..., : x.shape[-1] * self.convtr.stride[0]]


class ResidualUnit(nn.Module):
    """x + conv(elu(dilated conv(elu(x)))), with half the channels in between; shortcut as in EnCodec."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(),
            CausalConv1d(channels, channels // 2, 3, dilation=dilation),
            nn.ELU(),
            CausalConv1d(channels // 2, channels, 1),
        )
        self.shortcut = CausalConv1d(channels, channels, 1)

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
    channels: int, filters: int, ratios: list[int], dim: int, *, residual: int = 1, lstm: int = 0
) -> nn.Sequential:
    """(batch, channels, samples) → (batch, dim, frames); `ratios` from the decoder's end, as in EnCodec."""
    width = filters
    layers: list[nn.Module] = [CausalConv1d(channels, width, 7)]
    for ratio in reversed(ratios):
        layers += [ResidualUnit(width, 2**i) for i in range(residual)]
        layers += [nn.ELU(), CausalConv1d(width, 2 * width, 2 * ratio, ratio)]
        width *= 2
    layers += [LSTM(width, lstm)] if lstm else []
    return nn.Sequential(*layers, nn.ELU(), CausalConv1d(width, dim, 7))


def decoder(
    channels: int, filters: int, ratios: list[int], dim: int, *, residual: int = 1, lstm: int = 0
) -> nn.Sequential:
    """(batch, dim, frames) → (batch, channels, samples), the mirror of `encoder`."""
    width = filters * 2 ** len(ratios)
    layers: list[nn.Module] = [CausalConv1d(dim, width, 7)]
    layers += [LSTM(width, lstm)] if lstm else []
    for ratio in ratios:
        layers += [nn.ELU(), CausalConvTranspose1d(width, width // 2, 2 * ratio, ratio)]
        width //= 2
        layers += [ResidualUnit(width, 2**i) for i in range(residual)]
    return nn.Sequential(*layers, nn.ELU(), CausalConv1d(width, channels, 7))


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
            for conv in (module.shortcut.conv, module.block[-1].conv):
                nn.init.normal_(conv.weight, std=(2 * conv.in_channels) ** -0.5)
