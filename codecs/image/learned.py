"""Learned image codecs: one autoencoder with four quantizers."""

from __future__ import annotations

from typing import Any

from ..quantizers import BSQ, FSQ, ResidualVQ
from ..registry import register
from .autoencoder import Autoencoder

NETWORK: dict[str, Any] = {"stride": 8, "patch": 4, "widths": [128, 256], "depths": [2, 2], "decoder_depths": [3, 5]}
"""Default arguments of `Autoencoder`."""


@register("image/vqgan")
class VQGAN(Autoencoder):
    """Local autoencoder with vector quantization (Esser et al., arXiv 2012.09841), without attention.

    Args:
        codebook_size: Entries of the codebook.
        dim: Channels of an entry.
        decay: See `ResidualVQ`, also for dead_below, update and normalise.
        **network: See `Autoencoder`.
    """

    def __init__(
        self, codebook_size: int = 4096, dim: int = 16, *, decay: float = 0.99, dead_below: float = 0.1,
        update: str = "ema", normalise: bool = False, **network: Any,
    ) -> None:  # fmt: skip
        learning = {"decay": decay, "dead_below": dead_below, "update": update, "normalise": normalise}
        super().__init__(ResidualVQ(codebook_size, dim, **learning), **(NETWORK | network))


@register("image/fsq")
class ImageFSQ(Autoencoder):
    """Local autoencoder with finite scalar quantization (Mentzer et al., arXiv 2309.15505).

    Args:
        levels: Levels of each channel.
        codebooks: Number of codebooks that share the levels; len(levels) makes one per channel.
        **network: See `Autoencoder`.
    """

    def __init__(self, levels: list[int] = (8, 8, 5, 5, 5), codebooks: int = 1, **network: Any) -> None:
        super().__init__(FSQ(list(levels), codebooks), **(NETWORK | network))


@register("image/bsq")
class ImageBSQ(Autoencoder):
    """Local autoencoder with binary spherical quantization (Zhao et al., arXiv 2406.07548).

    Args:
        bits: Bits of a position.
        codebooks: Number of codebooks that share the bits; None for the fewest of at most 9 bits each.
        entropy_weight: Weight of the entropy term in training.
        **network: See `Autoencoder`.
    """

    def __init__(
        self, bits: int = 12, codebooks: int | None = None, entropy_weight: float = 0.1, **network: Any
    ) -> None:
        super().__init__(BSQ(bits, codebooks, entropy_weight), **(NETWORK | network))


@register("image/rvq")
class ImageRVQ(Autoencoder):
    """Local autoencoder with residual vector quantization (Lee et al., arXiv 2203.01941) and quantizer dropout.

    Setting: number of quantizers.

    Args:
        codebook_size: Entries of each codebook.
        dim: Channels of an entry.
        quantizers: Number of quantizers.
        decay: See `ResidualVQ`, also for dead_below and update.
        **network: See `Autoencoder`.
    """

    def __init__(
        self, codebook_size: int = 1024, dim: int = 16, quantizers: int = 4, *, decay: float = 0.99,
        dead_below: float = 0.1, update: str = "ema", **network: Any,
    ) -> None:  # fmt: skip
        learning = {"decay": decay, "dead_below": dead_below, "update": update}
        super().__init__(ResidualVQ(codebook_size, dim, quantizers, **learning), **(NETWORK | network))
