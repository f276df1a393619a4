"""The learned image codecs: one autoencoder, four quantizers."""

from __future__ import annotations

from typing import Any

from ..quantizers import BSQ, FSQ, ResidualVQ
from ..registry import register
from .autoencoder import Autoencoder

NETWORK: dict[str, Any] = {"stride": 8, "patch": 4, "widths": [128, 256], "depths": [2, 2], "decoder_depths": [3, 5]}
"""The autoencoder that a codec gets where nothing else is said."""


@register("image/vqgan")
class VQGAN(Autoencoder):
    """Vector-quantised autoencoder (Esser et al., arXiv 2012.09841), local and without attention.

    codebook_size  entries; dim  channels of a codeword
    decay, dead_below, update, normalise  how the codebook learns, see `ResidualVQ`
    network        see `Autoencoder`
    """

    def __init__(
        self, codebook_size: int = 4096, dim: int = 16, *, decay: float = 0.99, dead_below: float = 0.1,
        update: str = "ema", normalise: bool = False, **network: Any,
    ) -> None:  # fmt: skip
        learning = {"decay": decay, "dead_below": dead_below, "update": update, "normalise": normalise}
        super().__init__(ResidualVQ(codebook_size, dim, **learning), **(NETWORK | network))


@register("image/fsq")
class ImageFSQ(Autoencoder):
    """Autoencoder with finite scalar quantization (Mentzer et al., arXiv 2309.15505).

    levels     of each channel; codebooks  how many codebooks expose them (1: one of Π levels;
               len(levels): fully factorised); network  see `Autoencoder`
    """

    def __init__(self, levels: list[int] = (8, 8, 5, 5, 5), codebooks: int = 1, **network: Any) -> None:
        super().__init__(FSQ(list(levels), codebooks), **(NETWORK | network))


@register("image/bsq")
class ImageBSQ(Autoencoder):
    """Autoencoder with binary spherical quantization (Zhao et al., arXiv 2406.07548).

    bits       a position; codebooks  into how many they are split (default: of at most 9 bits each)
    network    see `Autoencoder`
    """

    def __init__(
        self, bits: int = 12, codebooks: int | None = None, entropy_weight: float = 0.1, **network: Any
    ) -> None:
        super().__init__(BSQ(bits, codebooks, entropy_weight), **(NETWORK | network))


@register("image/rvq")
class ImageRVQ(Autoencoder):
    """Autoencoder with residual vector quantization and quantizer dropout (Lee et al., arXiv 2203.01941).

    codebook_size  entries of each quantizer; dim  channels of a codeword
    decay, dead_below, update  how the codebooks learn, see `ResidualVQ`
    network        see `Autoencoder`
    Setting: the number of quantizers used.
    """

    def __init__(
        self, codebook_size: int = 1024, dim: int = 16, quantizers: int = 4, *, decay: float = 0.99,
        dead_below: float = 0.1, update: str = "ema", **network: Any,
    ) -> None:  # fmt: skip
        learning = {"decay": decay, "dead_below": dead_below, "update": update}
        super().__init__(ResidualVQ(codebook_size, dim, quantizers, **learning), **(NETWORK | network))
