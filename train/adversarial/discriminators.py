"""Discriminators: PatchGAN for images, multi-scale STFT for audio. Neither keeps batch statistics.

forward(signals) → (logits, features): one tensor of logits per scale, and the activations of the layers of each scale
for feature matching. Signals are float32, images in [0, 1], audio in [-1, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tokenloom.codecs import CodeSpec, Modality
from tokenloom.codecs.layers import ChannelNorm

Output = tuple[list[Tensor], list[list[Tensor]]]

SLOPE = 0.2
"""Slope of the leaky ReLUs, as in both papers."""
SMALLEST_CROP = 24
"""Pixels. Three halvings and two 4×4 convolutions leave one logit."""
STFT_SIZES = (2048, 1024, 512, 256, 128)
"""Windows in samples at 24 kHz."""
FILTERS = {Modality.IMAGE: 64, Modality.AUDIO: 32}


def build(spec: CodeSpec, size: int, filters: int | None) -> nn.Module:
    """Build the discriminator for crops with `size` pixels per side, or samples.

    `filters` is the width of the first layer; None: that of the paper. Raises ValueError if the crops are too small.
    """
    filters = filters or FILTERS[spec.modality]
    if spec.modality is Modality.IMAGE:
        if size < SMALLEST_CROP:
            raise ValueError(f"the adversary needs crops of at least {SMALLEST_CROP} pixels, got {size}")
        return PatchGAN(filters)
    windows = stft_windows(spec.sample_rate, size)
    if not windows:
        raise ValueError(
            f"the adversary needs segments as long as its shortest STFT window at {spec.sample_rate} Hz, "
            f"{stft_windows(spec.sample_rate, 2**62)[-1]} samples, got {size}"
        )
    return MultiScaleSTFT(spec.channels, windows, filters)


def stft_windows(sample_rate: int, size: int) -> list[int]:
    """Return EnCodec's windows that fit into `size` samples, scaled to the sample rate as powers of two."""
    scaled = [max(32, 2 ** round(math.log2(n * sample_rate / 24000))) for n in STFT_SIZES]
    return [n for n in dict.fromkeys(scaled) if n <= size]


class PatchGAN(nn.Module):
    """Logits for overlapping 70×70 patches (Isola et al., arXiv 1611.07004, appendix 6.1.2), 8 pixels apart.

    ChannelNorm replaces batch norm, so that logits depend neither on other images nor on the number of processes.
    """

    scales = 1

    def __init__(self, filters: int) -> None:
        super().__init__()
        widths = [3, filters, 2 * filters, 4 * filters, 8 * filters]
        self.layers = nn.ModuleList()
        for i in range(4):
            layer = [nn.Conv2d(widths[i], widths[i + 1], 4, stride=2 if i < 3 else 1, padding=1)]
            layer += [ChannelNorm(widths[i + 1])] if i else []
            self.layers.append(nn.Sequential(*layer, nn.LeakyReLU(SLOPE)))
        self.verdict = nn.Conv2d(widths[-1], 1, 4, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Output:
        x = (x * 2 - 1).contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return [self.verdict(x)], [features]


class MultiScaleSTFT(nn.Module):
    """One network per window length (Défossez et al., EnCodec, arXiv 2210.13438, §3.4)."""

    def __init__(self, channels: int, windows: list[int], filters: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(STFTDiscriminator(channels, n, filters) for n in windows)
        self.scales = len(windows)

    def forward(self, x: Tensor) -> Output:
        logits, features = zip(*(network(x) for network in self.networks), strict=True)
        return list(logits), list(features)


class STFTDiscriminator(nn.Module):
    """2-D convolutions over the complex STFT, real and imaginary parts of every channel as input planes.

    The kernels have 3 frames × 9 bins, dilation 1, 2, 4 in time, stride 2 in frequency, and weight normalization, as in
    figure 2 of EnCodec.
    """

    def __init__(self, channels: int, window: int, filters: int) -> None:
        super().__init__()
        self.size = window
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        layers = [nn.Conv2d(2 * channels, filters, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):
            layers += [
                nn.Conv2d(filters, filters, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
            ]
        layers += [nn.Conv2d(filters, filters, 3, padding=1)]
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.verdict = weight_norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(
                x.float().flatten(0, 1), self.size, self.size // 4, window=self.window, return_complex=True
            )
            spectrum = torch.view_as_real(spectrum) / self.window.square().sum().sqrt()
            x = spectrum.unflatten(0, x.shape[:2]).permute(0, 1, 4, 3, 2).flatten(1, 2)  # planes, frames, bins
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return self.verdict(x), features
