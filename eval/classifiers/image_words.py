"""Classifier of the words in image captions. Its features serve to compare sets of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom.codecs import media

from . import fitting

SIDE, WINDOW = 128, 64
"""Side in pixels of the center crop that is kept for training, and of the random crop of a training step."""
WIDTHS = (16, 32, 64, 128)
EPOCHS, BATCH = 10, 32
RECIPE = 1
"""Version of the training. It changes the name in the cache."""


class ImageWordClassifier(nn.Module):
    """Multi-label classifier of images of any size: four convolutions, global average pooling, one linear layer.

    It maps float32 (batch, 3, height, width) in [0, 1] to logits (batch, labels).
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            layers += [nn.Conv2d(before, width, 3, 1 if i == 0 else 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTHS[-1], labels)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features before the last layer, (batch, 128)."""
        return self.layers(x * 2 - 1).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.embed(x), 0.2, self.training))


def center(image: Tensor) -> Tensor:
    """Return the center of an image as uint8 (3, height, width), with sides of at most SIDE pixels."""
    top, left = (max(0, (n - SIDE) // 2) for n in image.shape[1:])
    return media.to_uint8(image[:, top : top + SIDE, left : left + SIDE])


def trained(
    images: Sequence[Tensor],
    targets: Tensor,
    labels: Sequence[str],
    folder: str | Path | None = None,
    progress: fitting.Progress | None = None,
) -> ImageWordClassifier:
    """Return the classifier of images, from `folder` (default: the user's cache) or newly trained.

    `images` are outputs of `center`; `targets` is float32 (images, labels), 1 for each label of an image, else 0.
    """
    digest = hashlib.sha256(f"{RECIPE} {EPOCHS} {BATCH} {WIDTHS} {WINDOW} {labels}".encode())
    for image, target in zip(images, targets, strict=True):
        digest.update(f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes())
        digest.update(target.numpy().tobytes())
    name = f"image-words-{digest.hexdigest()[:16]}"
    network = ImageWordClassifier(len(labels))
    return fitting.cached(name, network, lambda: _train(images, targets, progress), folder)


def _train(images: Sequence[Tensor], targets: Tensor, progress: fitting.Progress | None) -> ImageWordClassifier:
    weight = ((len(targets) - targets.sum(0)) / targets.sum(0)).sqrt()  # else it predicts no label
    with fitting.reproducible():
        network = ImageWordClassifier(targets.shape[1]).train()

        def loss(rows: Tensor) -> Tensor:
            batch = torch.stack([_crop(images[i]) for i in rows.tolist()])
            return F.binary_cross_entropy_with_logits(network(batch), targets[rows], pos_weight=weight)

        steps = EPOCHS * -(-len(images) // BATCH)
        rows = fitting.batches(len(images), BATCH, EPOCHS)
        fitting.fit(network, rows, loss, steps, rate=3e-3, weight_decay=0.02, warmup=0.2, progress=progress)
    return network


def _crop(image: Tensor) -> Tensor:
    """Return a random crop (3, WINDOW, WINDOW) in [0, 1]. Small images are padded to WINDOW + 4 pixels first."""
    x = image.float()[None] / 255
    missing = [max(0, WINDOW + 4 - n) for n in x.shape[:1:-1]]
    x = F.pad(x, [side for n in missing for side in (n // 2, n - n // 2)], mode="replicate")
    top, left = (int(torch.randint(n - WINDOW + 1, ())) for n in x.shape[2:])
    return x[0, :, top : top + WINDOW, left : left + WINDOW]
