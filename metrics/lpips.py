"""LPIPS, the learned perceptual distance between images (Zhang et al., arXiv 1801.03924), version 0.1.

The `lpips` package contains the linear heads. The weights of the backbone come from a file, from the torch hub cache
or, on request, from a download.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from tokenloom import files, lazy
from tokenloom.errors import first_line

from .errors import hub_file

lpips = lazy.load("lpips", "eval")

FILES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
"""Backbone → torchvision's file of its weights; the digits begin the file's SHA-256."""
SMALLEST = {"vgg": 16, "alex": 31}
"""Smallest side in pixels for which every layer of a backbone has an output."""
ADDRESS = "https://download.pytorch.org/models"
TIMEOUT = 30
"""Seconds."""


def load(backbone: str = "vgg", weights: str | Path | None = None, *, download: bool = False) -> nn.Module:
    """Return the frozen network.

    It takes two batches (batch, 3, height, width) in [-1, 1], or in [0, 1] with normalize=True, and returns distances
    (batch, 1, 1, 1).

    Args:
        backbone: "vgg" or "alex".
        weights: A file in torchvision's layout, of the whole classifier or of its `features`. Default: the file in the
            torch hub cache.
        download: If true, a file that the cache lacks is downloaded.

    Raises:
        FileNotFoundError: If the file is missing. The message states its path.
        ValueError: If the file does not fit, or the backbone is unknown.
    """
    if backbone not in FILES:
        raise ValueError(f"LPIPS backbone must be one of {tuple(FILES)}, got {backbone!r}")
    name = FILES[backbone]
    path = hub_file(name) if weights is None else Path(weights).expanduser()
    if not path.is_file():
        if weights is not None:
            raise FileNotFoundError(f"no LPIPS backbone at {path}; it must be torchvision's {name} ({ADDRESS}/{name})")
        try:
            if not download:
                raise OSError("nothing was downloaded")
            _download(name, path)
        except OSError as error:  # URLError and timeouts included
            raise FileNotFoundError(
                f"LPIPS needs the weights of its backbone at {path}: put {ADDRESS}/{name} there ({first_line(error)})"
            ) from error
    network = _untrained(backbone)
    _fill(network, path)
    return network.requires_grad_(False).eval()


def distance(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean LPIPS of pairs of images, both float32 (batch, 3, height, width) in [0, 1].

    Raises ValueError if the images are too small for the backbone.
    """
    least = SMALLEST["alex" if network.pnet_type == "alex" else "vgg"]
    if min(x.shape[-2:]) < least:
        raise ValueError(f"LPIPS needs images of at least {least} pixels a side, got {min(x.shape[-2:])}")
    return network.to(x.device)(x, y, normalize=True).mean()


def _untrained(backbone: str) -> nn.Module:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*(pretrained|weight enum).*")  # of torchvision, about lpips's call
        with _without_initialization():
            return lpips.LPIPS(net=backbone, version="0.1", pnet_rand=True, verbose=False)


@contextlib.contextmanager
def _without_initialization() -> Iterator[None]:
    """Skip the random initialization, which takes seconds for VGG's 138 million weights. They are loaded next."""
    names = ("kaiming_uniform_", "kaiming_normal_", "normal_", "uniform_")
    real = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(nn.init, name, function)


def _fill(network: nn.Module, path: Path) -> None:
    """Copy a classifier's convolutions into lpips's slices, which keep torchvision's numbers."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on damaged files
        raise ValueError(f"{path} is not readable as weights: {first_line(error)}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} has no state dict")
    for name, parameter in cast(nn.Module, network.net).named_parameters():
        key = name.split(".", 1)[1]  # slice2.5.weight is torchvision's features.5.weight
        value = state.get(f"features.{key}", state.get(key))
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            found = "is missing" if value is None else f"is {tuple(getattr(value, 'shape', ()))}"
            raise ValueError(
                f"{path} does not fit this LPIPS backbone: features.{key} {found}, must be {tuple(parameter.shape)}"
            )
        parameter.data.copy_(value)


def _download(name: str, path: Path) -> None:
    """Download a file of weights and check it against the digest in its name. Raises OSError."""
    with files.writing(path) as part:
        with urlopen(f"{ADDRESS}/{name}", timeout=TIMEOUT) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file)
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        if not digest.startswith(Path(name).stem.rpartition("-")[2]):
            raise OSError(f"the network sent a file with another checksum, {digest[:8]}")
