"""Image metrics: (3, height, width) float32 in [0, 1] against the same. Libraries compute; this composes."""

from __future__ import annotations

import functools
import math
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from tokenloom.codecs import media

from . import lpips as perceptual
from .errors import Unmeasurable, cached_weights

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of R, G and B."""
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


def _prepare(x: Tensor, rounding: str, space: str) -> Tensor:
    """(3, height, width) → (1, channels, height, width), rounded and in the colour space of the protocol."""
    x = x.detach().float().cpu()
    if rounding == "8 bit":
        x = media.to_uint8(x).float() / 255
    elif rounding != "none":
        raise ValueError(f"rounding {rounding!r} is none of ('8 bit', 'none')")
    if space == "Y":
        x = (x * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
        x = media.to_uint8(x).float() / 255 if rounding == "8 bit" else x
    elif space != "RGB":
        raise ValueError(f"space {space!r} is none of ('RGB', 'Y')")
    return x[None]


def psnr(reference: Tensor, output: Tensor, *, rounding: str, space: str) -> float:
    """10 log10(1 / MSE) in dB, the MSE over all channels and pixels; inf for identical pictures."""
    error = _prepare(reference, rounding, space).double() - _prepare(output, rounding, space).double()
    mse = error.square().mean().item()
    return -10 * math.log10(mse) if mse > 0 else math.inf


def ssim(reference: Tensor, output: Tensor, *, rounding: str, space: str, window: int, sigma: float) -> float:
    """Structural similarity (Wang et al. 2004) by pytorch-msssim: Gaussian window, border 'valid'."""
    from pytorch_msssim import ssim

    if min(reference.shape[-2:]) < window:
        raise Unmeasurable(f"a side is shorter than the {window}-pixel window")
    x, y = _prepare(reference, rounding, space), _prepare(output, rounding, space)
    return ssim(x, y, data_range=1.0, win_size=window, win_sigma=sigma).item()


def ms_ssim(reference: Tensor, output: Tensor, *, rounding: str, space: str, window: int, sigma: float) -> float:
    """Multi-scale SSIM (Wang et al. 2003), 5 scales, by pytorch-msssim; undefined up to 160 px."""
    from pytorch_msssim import ms_ssim

    if min(reference.shape[-2:]) <= (window - 1) * 2**4:
        raise Unmeasurable(f"a side is not longer than {(window - 1) * 2**4} pixels, which 5 scales need")
    x, y = _prepare(reference, rounding, space), _prepare(output, rounding, space)
    return ms_ssim(x, y, data_range=1.0, win_size=window, win_sigma=sigma).item()


def lpips(reference: Tensor, output: Tensor, *, rounding: str, space: str, backbone: str) -> float:
    """Learned perceptual distance (Zhang et al. 2018), version 0.1, input scaled to [-1, 1]."""
    if min(reference.shape[-2:]) < 32:
        raise Unmeasurable("a side is shorter than 32 pixels, too few for the backbone")
    x, y = _prepare(reference, rounding, space), _prepare(output, rounding, space)
    with torch.inference_mode():
        return _lpips_network(backbone)(x, y, normalize=True).item()


def lpips_missing(backbone: str) -> str | None:
    """Why LPIPS cannot be had here, or None. Nothing is ever downloaded for it."""
    for package in ("lpips", "torchvision"):
        if find_spec(package) is None:
            return f"the package {package} is not installed"
    return cached_weights(perceptual.FILES[backbone])


@functools.cache
def _lpips_network(backbone: str) -> torch.nn.Module:
    return perceptual.load(backbone)


class FrechetInception:
    """rFID: Fréchet distance of Inception features (Heusel et al. 2017) between pictures and reconstructions."""

    def __init__(self, *, rounding: str, space: str, minimum: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
        self.rounding, self.space, self.minimum, self.count = rounding, space, minimum, 0
        self.fid = FrechetInceptionDistance(2048, normalize=True, feature_extractor_weights_path=str(weights))

    def update(self, reference: Tensor, output: Tensor) -> None:
        self.fid.update(_prepare(reference, self.rounding, self.space), real=True)
        self.fid.update(_prepare(output, self.rounding, self.space), real=False)
        self.count += 1

    def value(self) -> float:
        if self.count < self.minimum:
            raise Unmeasurable(f"{self.count} pictures; a covariance of 2,048 features wants {self.minimum:,}")
        return self.fid.compute().item()


def rfid_missing() -> str | None:
    """Why rFID cannot be had here, or None. Nothing is ever downloaded for it."""
    if find_spec("torch_fidelity") is None:
        return "the package torch-fidelity is not installed"
    return cached_weights(INCEPTION)
