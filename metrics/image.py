"""Image metrics. Both images are float32 (3, height, width) in [0, 1].

Settings of every metric:
    rounding: "8 bit" rounds both images to 8 bits first; "none" keeps them.
    space: "RGB", or "Y" for the luma of ITU-R BT.601.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tokenloom import lazy
from tokenloom.codecs import media
from tokenloom.codecs.targets import decibel

from . import errors
from . import lpips as perceptual
from .errors import Unmeasurable

piq = lazy.load("piq", "judges")
pytorch_msssim = lazy.load("pytorch_msssim", "eval")
skimage_color = lazy.load("skimage.color", "eval")
ssimulacra = lazy.load("ssimulacra2", "judges")

LUMA = (0.299, 0.587, 0.114)
"""BT.601 weights of R, G and B."""
SCALES = 5
"""Resolutions of MS-SSIM."""
SSIMULACRA_SIDE = 8
"""Smallest side in pixels of the images that SSIMULACRA2 accepts."""
LPIPS_SIDE = 32
"""Smallest side in pixels of the images that LPIPS accepts."""


def psnr(reference: Tensor, output: Tensor, *, rounding: str = "8 bit", space: str = "RGB") -> float:
    """Return 10 log10(255² / MSE) in dB, the MSE over channels and pixels; inf for identical images."""
    x, y = (prepare(image, rounding, space).double() * 255 for image in (reference, output))
    error = x.round() - y.round() if rounding == "8 bit" else x - y
    return decibel(error.square().mean().item())


def ssim(reference: Tensor, output: Tensor, *, rounding: str, space: str, window: int, sigma: float) -> float:
    """Return the structural similarity (Wang et al. 2004): Gaussian window, no padding at the border."""
    if min(reference.shape[-2:]) < window:
        raise Unmeasurable(f"a side is shorter than the {window}-pixel window")
    x, y = prepare(reference, rounding, space), prepare(output, rounding, space)
    return pytorch_msssim.ssim(x, y, data_range=1.0, win_size=window, win_sigma=sigma).item()


def ms_ssim(reference: Tensor, output: Tensor, *, rounding: str, space: str, window: int, sigma: float) -> float:
    """Return the multi-scale structural similarity (Wang et al. 2003) over 5 scales."""
    longest = (window - 1) * 2 ** (SCALES - 1)
    if min(reference.shape[-2:]) <= longest:
        raise Unmeasurable(f"{SCALES} scales need sides of more than {longest} pixels")
    x, y = prepare(reference, rounding, space), prepare(output, rounding, space)
    return pytorch_msssim.ms_ssim(x, y, data_range=1.0, win_size=window, win_sigma=sigma).item()


def gmsd(reference: Tensor, output: Tensor, *, rounding: str, space: str) -> float:
    """Return the gradient magnitude similarity deviation (Xue et al. 2013, arXiv 1308.3052), in [0, 1]; 0 is equal."""
    return piq.gmsd(prepare(reference, rounding, space), prepare(output, rounding, space), data_range=1.0).item()


def ssimulacra2(reference: Tensor, output: Tensor, *, rounding: str, space: str) -> float:
    """Return SSIMULACRA 2.1 (Sneyers, Cloudinary): 100 for equal images, 90 visually lossless, below 0 very bad."""
    if min(reference.shape[-2:]) < SSIMULACRA_SIDE:
        raise Unmeasurable(f"a side is shorter than {SSIMULACRA_SIDE} pixels")
    files = []
    for x in (reference, output):  # the package reads files
        files.append(io.BytesIO())
        Image.fromarray(pixels(prepare(x, rounding, space)[0])).save(files[-1], "png", compress_level=0)
    return float(ssimulacra.compute_ssimulacra2(*files))


def ciede2000(reference: Tensor, output: Tensor, *, rounding: str, space: str) -> float:
    """Return the mean color difference CIEDE2000 (Sharma et al. 2005) of sRGB, D65; one of 1 is just seen."""
    images = (prepare(x, rounding, space)[0].movedim(0, -1).double().numpy() for x in (reference, output))
    x, y = (skimage_color.rgb2lab(image) for image in images)
    return float(skimage_color.deltaE_ciede2000(x, y).mean())


def pixels(x: Tensor) -> np.ndarray:
    """Return an image (3, height, width) in [0, 1] as levels, uint8 (height, width, 3)."""
    return media.to_uint8(x).movedim(0, -1).contiguous().numpy()


def lpips(reference: Tensor, output: Tensor, *, rounding: str, space: str, backbone: str) -> float:
    """Return the learned perceptual distance (Zhang et al. 2018), version 0.1."""
    if min(reference.shape[-2:]) < LPIPS_SIDE:
        raise Unmeasurable(f"a side is shorter than {LPIPS_SIDE} pixels, too few for the backbone")
    x, y = prepare(reference, rounding, space), prepare(output, rounding, space)
    with torch.inference_mode():
        return perceptual.distance(_network(backbone), x, y).item()


def lpips_missing(backbone: str) -> str | None:
    """Return the reason why LPIPS cannot be computed, or None. Nothing is downloaded."""
    package = errors.missing_package("lpips", "eval") or errors.missing_package("torchvision", "eval")
    return package or errors.missing_weights(perceptual.FILES[backbone])


@functools.cache
def _network(backbone: str) -> nn.Module:
    return perceptual.load(backbone)


def prepare(x: Tensor, rounding: str, space: str) -> Tensor:
    """Return an image as a batch (1, channels, height, width) in [0, 1], rounded and in the color space."""
    if rounding not in ("8 bit", "none"):
        raise ValueError(f"rounding must be '8 bit' or 'none', got {rounding!r}")
    if space not in ("RGB", "Y"):
        raise ValueError(f"space must be 'RGB' or 'Y', got {space!r}")
    x = x.detach().float().cpu()
    x = media.to_uint8(x).float() / 255 if rounding == "8 bit" else x
    if space == "Y":
        x = (x * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
        x = media.to_uint8(x).float() / 255 if rounding == "8 bit" else x
    return x[None]
