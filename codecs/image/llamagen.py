"""LlamaGen's image tokenizers (Sun et al., arXiv 2406.06525), which are Janus's too, and their checkpoints."""

from __future__ import annotations

from typing import Any

from .. import foreign
from ..codec import Codec, build
from ..registry import register
from .taming import Codebook, take, trained
from .vqgan_network import VQAutoencoder, generator, network, renamed

FILES = (
    "vq_ds16_c2i.pt", "vq_ds16_t2i.pt", "vq_ds8_c2i.pt", *foreign.WEIGHTS,
)  # fmt: skip


@register("image/llamagen")
class LlamaGen(VQAutoencoder):
    """LlamaGen's image tokenizer; the defaults are the published one of stride 16 (stride 8: multipliers 1, 2, 2, 4).

    Latents and entries have unit length in the search and after it (ViT-VQGAN, arXiv 2110.04627, §3.2).

    codebook_size  entries; dim  channels of one
    dead_below     see `ResidualVQ`
    network        see `VQAutoencoder`
    """

    def __init__(
        self, codebook_size: int = 16384, dim: int = 8, *, dead_below: float = 0.1, **network: Any
    ) -> None:  # fmt: skip
        super().__init__(Codebook(codebook_size, dim, dead_below=dead_below, normalise=True), **network)

    @classmethod
    def imported(cls, checkpoint: str) -> Codec:
        """From LlamaGen's `.pt` or Janus's weights, alone or within the whole model: a path, a folder or a hub id.

        Of a LlamaGen file with averaged weights (`ema`) those are taken, as in the official evaluation. The
        architecture is that of the tensors. Janus's `encode` in transformers (5.23) compares with entries that are not
        of unit length, unlike the model's own; here they are.
        Raises FileNotFoundError, or ValueError in one line where it is another model.
        """
        found = foreign.tensors(foreign.read(foreign.locate(checkpoint, *FILES)), "ema", "model", "state_dict")
        state = generator(found, checkpoint)
        janus = "encoder.down.0.block.0.conv1.weight" in state
        if janus and "decoder.up.0.upsample.conv.weight" not in state and "decoder.up.1.block.0.conv1.weight" in state:
            raise ValueError(f"{checkpoint} has the layout of taming-transformers; build it as image/taming")
        state = renamed(state)
        state.pop("quantize.codebook_used", None)  # the entries used last in training
        codebook = take(state, "quantize.embedding.weight", checkpoint)
        architecture = {"codebook_size": codebook.shape[0], "dim": codebook.shape[1]} | network(state, checkpoint)
        return foreign.adopt(build(cls.name, **architecture), state | trained(codebook), checkpoint)
