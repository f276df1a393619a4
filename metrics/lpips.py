"""LPIPS, the learned distance between pictures, where a loss and a metric both find it.

Zhang et al. (arXiv 1801.03924), version 0.1. The `lpips` package brings the linear heads; the weights of
its backbone are looked for in a given file, in the torch hub cache, and, where asked, on the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import warnings
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor, nn

FILES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
"""Backbone → torchvision's file of its weights; the digits begin the file's SHA-256."""
SMALLEST = {"vgg": 16, "alex": 31}
"""Shortest side in pixels that leaves every layer of a backbone something to see."""
ADDRESS = "https://download.pytorch.org/models"
TIMEOUT = 30


def cached(backbone: str) -> Path:
    """Where the torch hub cache keeps the backbone's weights, be they there or not."""
    if backbone not in FILES:
        raise ValueError(f"LPIPS backbone {backbone!r} is none of {tuple(FILES)}")
    return Path(torch.hub.get_dir()) / "checkpoints" / FILES[backbone]


def load(backbone: str = "vgg", weights: str | Path | None = None, *, download: bool = False) -> nn.Module:
    """The frozen network: (batch, 3, height, width) twice, in [-1, 1] (or in [0, 1] with normalize=True) → distances.

    weights   a file in torchvision's layout, that of the whole classifier or of its `features`; it comes first,
              then the torch hub cache, then, with `download`, the network, which fills the cache
    Raises FileNotFoundError with the path where the file is wanted, ValueError for one that does not fit.
    """
    path = cached(backbone) if weights is None else Path(weights).expanduser()
    if not path.is_file():
        name = FILES[backbone]
        if weights is not None:
            raise FileNotFoundError(f"no LPIPS backbone at {path}; wanted torchvision's {name} ({ADDRESS}/{name})")
        failure = _download(backbone, path) if download else "nothing was downloaded"
        if failure:
            raise FileNotFoundError(
                f"LPIPS needs the weights of its backbone at {path}: put {ADDRESS}/{name} there ({failure})"
            )
    network = _untrained(backbone)
    _fill(network, path)
    return network.requires_grad_(False).eval()


def distance(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean LPIPS over a batch of pictures in [0, 1], scalar; ValueError where they are too small."""
    least = SMALLEST["alex" if network.pnet_type == "alex" else "vgg"]
    if min(x.shape[-2:]) < least:
        raise ValueError(f"LPIPS needs pictures of at least {least} pixels a side, not {min(x.shape[-2:])}")
    return network.to(x.device)(x, y, normalize=True).mean()


def _untrained(backbone: str) -> nn.Module:
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*(pretrained|weight enum).*")  # torchvision, of lpips's own call
        with _without_initialisation():
            return lpips.LPIPS(net=backbone, version="0.1", pnet_rand=True, verbose=False)


@contextlib.contextmanager
def _without_initialisation():
    """Random weights that are overwritten at once: drawing VGG's 138 million takes seconds."""
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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not readable as weights: {reason}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no state dict")
    for name, parameter in network.net.named_parameters():  # slice2.5.weight is torchvision's features.5.weight
        key = name.split(".", 1)[1]
        value = state.get(f"features.{key}", state.get(key))
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            found = "is missing" if value is None else f"is {tuple(getattr(value, 'shape', ()))}"
            raise ValueError(
                f"{path} is no such LPIPS backbone: features.{key} {found}, wanted {tuple(parameter.shape)}"
            )
        parameter.data.copy_(value)


def _download(backbone: str, path: Path) -> str | None:
    """Fetch into the hub cache, whole or not at all; what went wrong, or None."""
    name = FILES[backbone]
    part = path.with_name(f"{name}.{os.getpid()}.part")  # several processes of a run may fetch at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urlopen(f"{ADDRESS}/{name}", timeout=TIMEOUT) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file)
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        if not digest.startswith(re.search(r"-([0-9a-f]+)\.", name)[1]):
            return f"what the network gave has another checksum, {digest[:8]}"
        part.replace(path)
    except OSError as error:  # URLError and timeouts included
        return f"the network gave nothing: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    finally:
        part.unlink(missing_ok=True)
    return None
