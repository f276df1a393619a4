"""Image tokenizer of Open-MAGVIT2 (Luo et al., arXiv 2409.04410), and its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import batches, foreign
from ..codec import Codec, LatentCodec, build
from ..quantizers import LFQ, product
from ..registry import register
from ..types import CodeSpec, Modality
from ..validate import are_integers, is_integer, require_integer
from .magvit2_network import GROUPS, MAGVIT2Decoder, MAGVIT2Encoder

MAX_WIDTH = 4096
PUBLISHED = ("imagenet_256_L.ckpt", "imagenet_128_L.ckpt", "pretrain256_262144.ckpt", "pretrain256_16384.ckpt")


@register("image/magvit2")
class MAGVIT2(product.OfficialIndex, LatentCodec):
    """Open-MAGVIT2's image tokenizer. The defaults are the published model for 256×256 pixels with 2^18 entries.

    Group norms depend on the whole image, so the codec is not local. The stride is 2^(stages − 1). Edges are replicated
    up to whole strides.

    Args:
        channels: Channels of the finest stage, a multiple of 32.
        multipliers: Channels of each stage as a multiple of `channels`, finest stage first.
        blocks: Residual blocks of each stage.
        bits: Bits of a code; 18 or 14 in the published models.
        codebooks: Number of quantizers that share the bits; None for the fewest of at most 2^14 entries each. With 18
            bits there are two of 2^9, and the official index is first + 512 · second.
        entropy_weight: Weight of LFQ's entropy term in training.
    """

    def __init__(
        self, channels: int = 128, multipliers: list[int] = (1, 1, 2, 2, 4), blocks: int = 4, bits: int = 18,
        codebooks: int | None = None, entropy_weight: float = 0.1,
    ) -> None:  # fmt: skip
        if not is_integer(channels, GROUPS, MAX_WIDTH) or channels % GROUPS:
            raise ValueError(f"channels must be a multiple of {GROUPS} up to {MAX_WIDTH}, got {channels!r:.80}")
        if not are_integers(multipliers, 1, MAX_WIDTH // channels, longest=8):
            raise ValueError(
                f"multipliers must be 1 to 8 integers from 1 to {MAX_WIDTH // channels} for {channels} channels, "
                f"got {multipliers!r:.80}"
            )
        require_integer("blocks", blocks, 1, 16)
        quantizer = LFQ(bits, codebooks, entropy_weight)
        stride = 2 ** (len(multipliers) - 1)
        super().__init__(CodeSpec(Modality.IMAGE, quantizer.sizes, (stride, stride), channels=3), quantizer)
        self.encoder = MAGVIT2Encoder(channels, list(multipliers), blocks, bits)
        self.decoder = MAGVIT2Decoder(channels, list(multipliers), blocks, bits)

    @classmethod
    def imported(cls, checkpoint: str, codebooks: int | None = None) -> Codec:
        """Build the codec from a Lightning `.ckpt` of Open-MAGVIT2.

        Averaged weights (`model_ema.…`) are preferred, as in the official evaluation. Losses, discriminator and
        optimizers are ignored.

        Args:
            checkpoint: A path or a hub id.
            codebooks: As in the constructor.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it holds another model.
        """
        path = foreign.locate(checkpoint, *PUBLISHED)
        state = foreign.tensors(foreign.read(path), "state_dict")
        architecture = _architecture(state, checkpoint)
        if codebooks is None:
            codebooks = len(LFQ(architecture["bits"]).sizes)
        codec = build(cls.name, **architecture, codebooks=codebooks)
        return foreign.adopt(codec, _generator(state), checkpoint)

    def analyze(self, x: Tensor) -> Tensor:
        x = batches.pad_to_stride(x, self.spec.stride[0])
        # not channels_last, which has larger rounding errors in group norms: codes must not change
        return self.encoder((x * 2 - 1).contiguous())

    def synthesize(self, latents: Tensor) -> Tensor:
        return (self.decoder(latents) + 1) / 2


def _architecture(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return the constructor arguments that the shapes imply."""
    if other := next((name for name in state if name.startswith(("quantize.", "quant_conv."))), None):
        raise ValueError(
            f"{source} must hold a lookup-free tokenizer; it holds {other}, which belongs to another model, such as IBQ"
        )
    if "encoder.conv_in.weight" not in state:
        raise ValueError(f"{source} must hold an image tokenizer of Open-MAGVIT2; it lacks encoder.conv_in.weight")
    stages = 1 + max(int(m[1]) for name in state if (m := re.match(r"encoder\.down\.(\d+)\.", name)))
    first = [name for name in state if re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", name)]
    outputs = [f"encoder.down.{i}.block.0.conv1.weight" for i in range(stages)]
    shapes = foreign.sizes(state, ["encoder.conv_in.weight", "encoder.conv_out.weight", *outputs])
    if any(len(shape) != 4 for shape in shapes):
        raise ValueError(
            f"{source} must hold an image tokenizer; its convolutions have {len(shapes[0]) - 2} dimensions"
        )
    channels = shapes[0][0]
    return {
        "channels": channels,
        "multipliers": [shape[0] // channels for shape in shapes[2:]],
        "blocks": len(first),
        "bits": shapes[1][0],
    }


def _generator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of encoder and decoder; their moving averages, whose names have no dots, if they exist."""
    own = {name: value for name, value in state.items() if name.startswith(("encoder.", "decoder."))}
    if not any(name.startswith(("model_ema.encoder", "model_ema.decoder")) for name in state):
        return own
    averages = {name: f"model_ema.{name.replace('.', '')}" for name in own}
    foreign.sizes(state, averages.values())
    return {name: state[average] for name, average in averages.items()}
