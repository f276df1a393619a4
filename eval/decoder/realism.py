"""What a diffusion decoder is compared with on the same codes, and what is measured of each picture or sound.

A variant is one way to turn codes into signals: "plain" (the codec's own decoder), the controls of controls.py, and
"diffusion N", the decoder with N steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom.codecs import media
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, Modality
from tokenloom.data import Item
from tokenloom.metrics import audio as sounds
from tokenloom.metrics import distribution as kernel
from tokenloom.metrics import features
from tokenloom.metrics import image as images
from tokenloom.metrics.errors import Unmeasurable

from .. import trial
from . import controls
from .controls import CONTROLS, Strength

if TYPE_CHECKING:
    from tokenloom.models import DiffusionDecoder

PLAIN = "plain"
FLOW = 16
"""From so many steps on the flow itself is followed ("euler"); fewer take its shortcuts."""
ITEMS_APART = 1_000_003
"""Seeds of a batch are seed · ITEMS_APART + number of its first item."""


# -- variants ------------------------------------------------------------------------------------


def diffusion(steps: int) -> str:
    """The name of the variant of so many steps."""
    return f"diffusion {steps}"


def sampler(steps: int) -> str:
    """The sampler of so many steps: see FLOW."""
    return "euler" if steps >= FLOW else "shortcut"


def variants(
    decoder: DiffusionDecoder,
    codes: Codes,
    *,
    steps: Sequence[int] = (1, 2, 4, 50),
    strengths: Mapping[str, Strength] | None = None,
    seed: int = 0,
    first: int = 0,
) -> dict[str, Tensor]:
    """Codes of signals of one size → the signals of every variant, (batch, channels, *axes) float32 on the CPU.

    steps      of the diffusion decoder, one variant each
    strengths  of controls.CONTROLS, as `fit_controls` finds them; None: no controls
    first      the number of the batch's first item: noise follows from (seed, number of the item)
    Clamped, and rounded to 8 bits a colour or 16 bits a sample, as they would be in a file.
    """
    finish = view(decoder.codec).finish
    low = seed * ITEMS_APART + first
    plain = finish(decoder.codec.decode(codes).cpu())
    made = {PLAIN: plain}
    for name, strength in (strengths or {}).items():
        made[name] = finish(CONTROLS[name](plain, strength.value, range(low, low + len(plain))))
    for n in steps:
        made[diffusion(n)] = finish(decoder.decode(codes, steps=n, seed=low, sampler=sampler(n)).cpu())
    return made


def fit_controls(codec: Codec, real: Sequence[Tensor], setting: Any = None, seed: int = 0) -> dict[str, Strength]:
    """The strength of every control for one setting of a codec, on training signals (channels, *axes) each."""
    seen = view(codec)
    real = [seen.finish(x) for x in real]
    plain = [seen.finish(codec.decode(codec.encode(x[None], setting)).cpu())[0] for x in real]
    return {name: controls.fit(name, real, plain, seen.psnr, seen.finish, seed) for name in CONTROLS}


# -- what is measured ------------------------------------------------------------------------------


@dataclass
class Reading:
    """What is kept of one signal: distortions, features by the name of their space, patches, share of codes back."""

    distortion: dict[str, float] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    patches: Tensor | None = None
    same: float | None = None


class Pictures:
    """How pictures are looked at; (3, height, width) float32 in [0, 1] each."""

    modality = Modality.IMAGE
    space = "block DCT"
    distortions: ClassVar[dict[str, str]] = {"psnr": "PSNR, dB"}
    patch = (8, 8)
    flat = 16 / 255
    definitions: ClassVar[dict[str, str]] = {
        "PSNR": "of 8-bit RGB, mean over items",
        "patches": f"{patch[0]}x{patch[1]} pixels of 8-bit RGB, at random places where the original spans at least "
        f"{flat * 255:.0f} levels, the same places for all variants",
        "block DCT": features.BLOCK_DCT,
    }

    def __init__(self, sample_rate: int | None = None) -> None:
        """There is no rate to know."""

    def finish(self, x: Tensor) -> Tensor:
        return media.to_uint8(x).float() / 255

    def psnr(self, real: Tensor, decoded: Tensor) -> float:
        return images.psnr(real, decoded, rounding="8 bit", space="RGB")

    def distortion(self, real: Tensor, decoded: Tensor) -> dict[str, float]:
        return {"psnr": self.psnr(real, decoded)}

    def statistics(self, x: Tensor) -> Tensor:
        return features.block_dct(x)

    def plane(self, x: Tensor) -> Tensor:
        """What patches are cut from."""
        return x

    def worth(self, plane: Tensor) -> Tensor:
        """Which patches of an original are not flat, by their top left corner."""
        span = partial(F.max_pool2d, kernel_size=self.patch, stride=1)
        return (span(plane[None]) + span(-plane[None])).amax(1)[0] >= self.flat


class Sounds:
    """How sounds are listened to; (channels, samples) float32 in [-1, 1] each, at `sample_rate` Hz."""

    modality = Modality.AUDIO
    space = "mel statistics"
    distortions: ClassVar[dict[str, str]] = {"psnr": "mel PSNR, dB", "mel": "mel distance"}
    mel: ClassVar[dict[str, Any]] = {"frame_seconds": 0.032, "n_mels": 64, "floor": 1e-4}
    """The mel distance of the protocol `waveform`."""
    patch = (10, 4)
    quiet = 40.0
    definitions: ClassVar[dict[str, str]] = {
        "PSNR": f"of the log-mel spectrogram ({mel['n_mels']} bands, frames of {mel['frame_seconds']} s), peak = its "
        f"range of {-20 * math.log10(mel['floor']):.0f} dB below full scale, mean over items",
        "patches": f"{patch[0]} bands of {patch[1]} frames of the log-mel spectrogram ({features.MEL_BANDS} bands, "
        f"frames of {features.MEL_FRAME_SECONDS} s, hop a quarter), at random places where no frame of the original "
        f"is more than {quiet:g} dB below its loudest, the same places for all variants",
        "mel statistics": features.MEL_STATISTICS,
    }

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def finish(self, x: Tensor) -> Tensor:
        return media.to_int16(x).float() / 32768

    def psnr(self, real: Tensor, decoded: Tensor) -> float:
        a, b = (sounds.log_mel(x, self.sample_rate, **self.mel) for x in (real, decoded))
        mse = (a - b).square().mean().item()
        return 20 * math.log10(-math.log(self.mel["floor"])) - 10 * math.log10(mse) if mse else math.inf

    def distortion(self, real: Tensor, decoded: Tensor) -> dict[str, float]:
        distance = sounds.mel_distance(real, decoded, sample_rate=self.sample_rate, **self.mel)
        return {"psnr": self.psnr(real, decoded), "mel": distance}

    def statistics(self, x: Tensor) -> Tensor:
        return features.mel_statistics(x, self.sample_rate)

    def plane(self, x: Tensor) -> Tensor:
        """What patches are cut from: (channels, bands, frames)."""
        return features.log_mel(x, self.sample_rate).float()

    def worth(self, plane: Tensor) -> Tensor:
        """Which patches of an original have no quiet frame, by their lowest band and first frame."""
        loudest = F.max_pool2d(plane.amax(0)[None], (self.patch[0], 1), 1)[0]
        lowest = -F.max_pool2d(-loudest[None], (1, self.patch[1]), 1)[0]
        floor = plane.amax().item() - self.quiet * math.log(10) / 20
        return lowest > max(floor, math.log(features.MEL_FLOOR) + 1e-6)


View = Pictures | Sounds


def view(codec: Codec) -> View:
    """How what a codec decodes to is measured; ValueError for texts."""
    if codec.spec.modality is Modality.TEXT:
        raise ValueError(f"{codec.name} is for text, which has no realism to measure")
    return (Pictures if codec.spec.modality is Modality.IMAGE else Sounds)(codec.spec.sample_rate)


def places(seen: View, real: Tensor, count: int, seed: int) -> Tensor:
    """At most `count` corners (row, column) of patches of an original that are worth judging, drawn by a seed."""
    plane = seen.plane(real)
    if any(n < p for n, p in zip(plane.shape[1:], seen.patch, strict=True)):
        return torch.zeros(0, 2, dtype=torch.int64)
    found = seen.worth(plane).nonzero()
    return found[torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:count]]


def patches(seen: View, x: Tensor, corners: Tensor) -> Tensor:
    """A signal (channels, *axes) → (patches, channels, height, width) at these corners."""
    plane, (height, width) = seen.plane(x), seen.patch
    found = [plane[:, row : row + height, column : column + width] for row, column in corners.tolist()]
    return torch.stack(found) if found else plane.new_zeros(0, len(plane), height, width)


def signal(item: Item, codec: Codec) -> Tensor:
    """An item as the codec takes it, (channels, *axes): at its sample rate and channels, rounded as in a file."""
    return view(codec).finish(trial.to_codec(item, codec))[0]


# -- the distance between sets ---------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """A KID with its 95 % interval over items; `draws` are those of the bootstrap."""

    value: float
    low: float
    high: float
    items: int
    draws: Tensor

    def describe(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.items}


def distance(real: Sequence[Tensor | None], fake: Sequence[Tensor | None], *, paired: bool = True) -> Distance:
    """KID between the features of two sets, one row an item (None: it has none); see kernel.kid.

    paired  fake[i] was decoded from the codes of real[i]: items without features are left out of both
    Raises Unmeasurable where fewer than 2 are left.
    """
    if paired:
        both = [(a, b) for a, b in zip(real, fake, strict=True) if a is not None and b is not None]
        real, fake = [a for a, _ in both], [b for _, b in both]
    real, fake = [a for a in real if a is not None], [b for b in fake if b is not None]
    if min(len(real), len(fake)) < 2:
        raise Unmeasurable(f"{min(len(real), len(fake))} items with these features; a distance between sets wants 2")
    x, y = torch.stack(list(real)), torch.stack(list(fake))
    draws = kernel.bootstrap(x, y, paired=paired)
    return Distance(kernel.kid(x, y, paired=paired), *kernel.interval(draws), len(y), draws)
