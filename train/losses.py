"""Reconstruction losses of codecs by name: `losses.l2=1 losses.msssim=0.01`.

Each takes (reconstruction, original), float32 of one shape, images in [0, 1] or audio in [-1, 1], and returns a scalar.
Losses are always computed in float32, whatever the precision of the networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenloom import errors, lazy
from tokenloom.codecs import Modality
from tokenloom.metrics import audio
from tokenloom.metrics import lpips as perceptual
from tokenloom.registry import Registry

pytorch_msssim = lazy.load("pytorch_msssim", "train")

Signals = Float[Tensor, "batch channels *size"]
Scalar = Float[Tensor, ""]
Loss = Callable[[Signals, Signals], Scalar]

STFT_SIZES = (1024, 512, 256, 128)
FLOOR = 1e-4
"""Magnitudes below −80 dB of a full-scale sine are inaudible and count as silence."""


def l1(x: Signals, y: Signals) -> Scalar:
    """Mean absolute error."""
    return (x - y).abs().mean()


def l2(x: Signals, y: Signals) -> Scalar:
    """Mean squared error."""
    return (x - y).square().mean()


def msssim(x: Signals, y: Signals) -> Scalar:
    """1 − MS-SSIM (Wang et al. 2003), five scales, with the largest window up to 11 that fits into the crop."""
    room = min(x.shape[-2:])
    window = min(11, 2 * ((room - 1) // 32) + 1)  # 16 (window − 1) < room
    if window < 3:
        raise ValueError(f"the msssim loss needs crops of at least 33 pixels, got {room}")
    return 1 - pytorch_msssim.ms_ssim(x, y, data_range=1.0, win_size=window)


def stft(x: Signals, y: Signals) -> Scalar:
    """Multi-resolution STFT distance: spectral convergence + log magnitude (Yamamoto et al., arXiv 1910.11480)."""
    total = x.new_zeros(())
    for size in _stft_sizes(x):
        a, b = _magnitude(x, size), _magnitude(y, size)
        convergence = (a - b).norm(dim=(-2, -1)) / b.norm(dim=(-2, -1)).clamp_min(FLOOR)
        total = (
            total
            + convergence.clamp_max(10).mean()
            + (a.clamp_min(FLOOR).log() - b.clamp_min(FLOOR).log()).abs().mean()
        )
    return total / len(_stft_sizes(x))


def mel(x: Signals, y: Signals) -> Scalar:
    """Multi-resolution mel distance, L1 + L2 of log-mel (EnCodec, arXiv 2210.13438, eq. 1, on log magnitudes)."""
    total = x.new_zeros(())
    for size in _stft_sizes(x):
        filters = _mel_filters(size, min(80, size // 8)).to(x)
        a, b = (torch.matmul(filters, _magnitude(s, size)).clamp_min(FLOOR).log() for s in (x, y))
        total = total + (a - b).abs().mean() + (a - b).square().mean().clamp_min(1e-12).sqrt()
    return total / len(_stft_sizes(x))


LOSSES: Registry[Loss] = Registry("loss", {"l1": l1, "l2": l2, "msssim": msssim, "stft": stft, "mel": mel})
"""Losses without weights of their own, and those of the user's files."""
NAMES = [*LOSSES, "lpips", "quantizer"]
"""Names that `losses` may hold. lpips needs a network; quantizer is the loss of the quantizer itself."""
ONLY = {"msssim": Modality.IMAGE, "lpips": Modality.IMAGE, "stft": Modality.AUDIO, "mel": Modality.AUDIO}
"""Losses of one modality."""
DEFAULTS = {
    Modality.IMAGE: {"l2": 1.0, "msssim": 0.01, "quantizer": 0.01},
    Modality.AUDIO: {"l1": 1.0, "stft": 1.0, "mel": 1.0, "quantizer": 1.0},
}
"""Default weights."""


def register(name: str, modality: Modality | str | None = None) -> Callable[[Loss], Loss]:
    """Return a decorator that adds a loss of codecs, which a run uses with `losses.<name>=<weight>`.

    Args:
        name: Key under `losses`.
        modality: The only modality that the loss is for; None for all.

    Raises:
        ValueError: If the name is malformed, or another loss has it.
    """
    if name not in LOSSES and name in NAMES:
        raise ValueError(f"loss {name!r} is built in; choose another name")

    def add(loss: Loss) -> Loss:
        LOSSES.register(name)(loss)
        if modality is not None:
            ONLY[name] = Modality(modality)
        if name not in NAMES:
            NAMES.append(name)
        return loss

    return add


def weights(given: Mapping[str, Any], modality: Modality, codes: float | None = None) -> dict[str, float]:
    """Return the checked weights of a run, the defaults of the modality if none is given.

    `codes` is the weight of the quantizer's loss for a codec that needs one, unless `given` holds it.
    """
    chosen = {name: w for name, w in given.items() if w is not None}
    for name, weight in chosen.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"losses.{name} must be a number, got {weight!r}")
        if name not in NAMES:
            raise ValueError(errors.unknown("loss of task=codec", name, NAMES))
        if weight < 0:
            raise ValueError(f"losses.{name} must be at least 0, got {weight:g}")
        if weight and ONLY.get(name, modality) is not modality:
            raise ValueError(f"the {name} loss is for {ONLY[name]} codecs, not for {modality}")
    own = {} if codes is None or "quantizer" in chosen else {"quantizer": codes}
    chosen = {name: float(w) for name, w in chosen.items() if w}
    if not chosen:
        return DEFAULTS[modality] | own
    chosen |= own
    if set(chosen) <= {"quantizer"}:
        others = ", ".join(name for name in NAMES if name != "quantizer")
        raise ValueError(f"no reconstruction loss has a weight; set one of {others}")
    return chosen


def networks(weights: Mapping[str, float], lpips_weights: str | None) -> dict[str, Loss]:
    """Load the losses among `weights` that have a network: LPIPS on VGG-16 (see `perceptual.load`), as in VQ-GAN."""
    if "lpips" not in weights:
        return {}
    return {"lpips": partial(perceptual.distance, perceptual.load("vgg", lpips_weights, download=True))}


def _stft_sizes(x: Tensor) -> list[int]:
    sizes = [n for n in STFT_SIZES if n <= x.shape[-1]]
    if not sizes:
        raise ValueError(f"spectral losses need segments of at least {min(STFT_SIZES)} samples, got {x.shape[-1]}")
    return sizes


def _magnitude(x: Float[Tensor, "batch channels samples"], size: int) -> Float[Tensor, "rows bins frames"]:
    """Return magnitudes (batch · channels, bins, frames), 1 for a sine of full scale."""
    window = _window(size).to(x)
    spectrum = torch.stft(x.flatten(0, 1), size, size // 4, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + FLOOR**2).sqrt() / (window.sum() / 2)


@cache
def _window(size: int) -> Tensor:
    return torch.hann_window(size)


@cache
def _mel_filters(size: int, bands: int) -> Tensor:
    """Return mel filters (bands, bins), each with sum 1.

    They are those of 24 kHz audio at every sample rate, so that the loss needs none.
    """
    return F.normalize(audio.mel_filters(24000, size, bands), p=1, dim=1)
