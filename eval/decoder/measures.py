"""Measures of images and sounds: distortion, features for distances between sets, and patches."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom.codecs import media
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.metrics import audio as audio_metrics
from tokenloom.metrics import features as set_features
from tokenloom.metrics import image as image_metrics

from .. import trial


class ImageMeasures:
    """Measures of images, float32 (3, height, width) in [0, 1]."""

    space = "block DCT"
    patch = (8, 8)
    flat = 16 / 255
    definitions: ClassVar[dict[str, str]] = {
        "PSNR": "of 8-bit RGB, mean over items",
        "patches": f"{patch[0]}x{patch[1]} pixels of 8-bit RGB, at random places where the original spans at least "
        f"{flat * 255:.0f} levels, the same places for all variants",
        "block DCT": set_features.BLOCK_DCT,
    }

    def quantize(self, x: Tensor) -> Tensor:
        """Clamp and round to 8 bits, as in a file."""
        return media.to_uint8(x).float() / 255

    def psnr(self, real: Tensor, decoded: Tensor) -> float:
        """Return the PSNR in dB."""
        return image_metrics.psnr(real, decoded, rounding="8 bit", space="RGB")

    def distortion(self, real: Tensor, decoded: Tensor) -> dict[str, float]:
        return {"psnr": self.psnr(real, decoded)}

    def features(self, x: Tensor) -> Tensor:
        """Return the features (d,) in the feature space `space`."""
        return set_features.block_dct(x)

    def plane(self, x: Tensor) -> Tensor:
        """Return the array to cut patches from, (channels, height, width)."""
        return x

    def informative(self, plane: Tensor) -> Tensor:
        """Return a mask of the top left corners of patches that are not flat, for the plane of an original."""
        span = partial(F.max_pool2d, kernel_size=self.patch, stride=1)
        return (span(plane[None]) + span(-plane[None])).amax(1)[0] >= self.flat


class AudioMeasures:
    """Measures of sounds, float32 (channels, samples) in [-1, 1] at `sample_rate` Hz; see ImageMeasures."""

    space = "mel statistics"
    mel: ClassVar[dict[str, Any]] = {"frame_seconds": 0.032, "n_mels": 64, "floor": 1e-4}
    """Settings of the mel distance in the protocol `waveform`."""
    patch = (10, 4)
    quiet = 40.0
    definitions: ClassVar[dict[str, str]] = {
        "PSNR": f"of the log-mel spectrogram ({mel['n_mels']} bands, frames of {mel['frame_seconds']} s), peak = its "
        f"range of {-20 * math.log10(mel['floor']):.0f} dB below full scale, mean over items",
        "patches": f"{patch[0]} bands of {patch[1]} frames of the log-mel spectrogram ({set_features.MEL_BANDS} "
        f"bands, frames of {set_features.MEL_FRAME_SECONDS} s, hop a quarter), at random places where no frame of "
        f"the original is more than {quiet:g} dB below its loudest, the same places for all variants",
        "mel statistics": set_features.MEL_STATISTICS,
    }

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def quantize(self, x: Tensor) -> Tensor:
        """Clamp and round to 16 bits, as in a file."""
        return media.to_int16(x).float() / 32768

    def psnr(self, real: Tensor, decoded: Tensor) -> float:
        """Return the PSNR of the log-mel spectrogram in dB."""
        a, b = (audio_metrics.log_mel(x, self.sample_rate, **self.mel) for x in (real, decoded))
        mse = (a - b).square().mean().item()
        return 20 * math.log10(-math.log(self.mel["floor"])) - 10 * math.log10(mse) if mse else math.inf

    def distortion(self, real: Tensor, decoded: Tensor) -> dict[str, float]:
        distance = audio_metrics.mel_distance(real, decoded, sample_rate=self.sample_rate, **self.mel)
        return {"psnr": self.psnr(real, decoded), "mel": distance}

    def features(self, x: Tensor) -> Tensor:
        return set_features.mel_statistics(x, self.sample_rate)

    def plane(self, x: Tensor) -> Tensor:
        """Return the array to cut patches from, (channels, bands, frames)."""
        return set_features.log_mel(x, self.sample_rate).float()

    def informative(self, plane: Tensor) -> Tensor:
        """Return a mask of the corners (lowest band, first frame) of patches without quiet frames."""
        loudest = F.max_pool2d(plane.amax(0)[None], (self.patch[0], 1), 1)[0]
        lowest = -F.max_pool2d(-loudest[None], (1, self.patch[1]), 1)[0]
        floor = plane.amax().item() - self.quiet * math.log(10) / 20
        return lowest > max(floor, math.log(set_features.MEL_FLOOR) + 1e-6)


Measures = ImageMeasures | AudioMeasures


def measures_of(codec: Codec) -> Measures:
    """Return the measures for the signals of a codec. Raises ValueError for text."""
    spec = codec.spec
    if spec.modality is Modality.IMAGE:
        return ImageMeasures()
    if spec.sample_rate is None:
        raise ValueError(f"realism is measured of images and audio; {codec.name} is for {spec.modality}")
    return AudioMeasures(spec.sample_rate)


def patch_corners(measures: Measures, real: Tensor, count: int, seed: int) -> Tensor:
    """Draw corners (row, column) of at most `count` informative patches of an original, int64 (patches, 2)."""
    plane = measures.plane(real)
    if any(n < p for n, p in zip(plane.shape[1:], measures.patch, strict=True)):
        return torch.zeros(0, 2, dtype=torch.int64)
    corners = measures.informative(plane).nonzero()
    return corners[torch.randperm(len(corners), generator=torch.Generator().manual_seed(seed))[:count]]


def cut_patches(measures: Measures, x: Tensor, corners: Tensor) -> Tensor:
    """Cut patches (patches, channels, height, width) from a signal (channels, *axes) at corners."""
    plane, (height, width) = measures.plane(x), measures.patch
    patches = [plane[:, row : row + height, column : column + width] for row, column in corners.tolist()]
    return torch.stack(patches) if patches else plane.new_zeros(0, len(plane), height, width)


def signal(item: Item, codec: Codec) -> Tensor:
    """Return an item's signal (channels, *axes) at the codec's sample rate and channels, rounded as in a file."""
    return measures_of(codec).quantize(trial.to_codec(item, codec))[0]
