"""Image tokenizers of LlamaGen and Janus (Sun et al., arXiv 2406.06525), and their checkpoints."""

from __future__ import annotations

from typing import Any

from .. import foreign
from ..codec import Codec, build
from ..registry import register
from .taming import Codebook
from .vqgan_network import VQAutoencoder
from .vqgan_states import architecture, codebook_state, generator, pop_tensor, rename

FILES = ("vq_ds16_c2i.pt", "vq_ds16_t2i.pt", "vq_ds8_c2i.pt", *foreign.WEIGHTS)


@register("image/llamagen")
class LlamaGen(VQAutoencoder):
    """LlamaGen's image tokenizer. The defaults are the published model of stride 16 (stride 8: multipliers 1, 2, 2, 4).

    Latents and entries are scaled to unit length (ViT-VQGAN, arXiv 2110.04627, §3.2).

    Args:
        codebook_size: Entries of the codebook.
        dim: Channels of an entry.
        dead_below: See `ResidualVQ`.
        **network: See `VQAutoencoder`.
    """

    def __init__(
        self, codebook_size: int = 16384, dim: int = 8, *, dead_below: float = 0.1, **network: Any
    ) -> None:  # fmt: skip
        super().__init__(Codebook(codebook_size, dim, dead_below=dead_below, normalise=True), **network)

    @classmethod
    def imported(cls, checkpoint: str) -> Codec:
        """Build the codec from LlamaGen's `.pt`, from Janus's tokenizer, or from a whole Janus.

        The tensors imply the architecture. Averaged weights (`ema`) of LlamaGen are preferred, as in the official
        evaluation. Entries have unit length, as in Janus's own code; `encode` in transformers (5.23) lacks that.

        Args:
            checkpoint: A path, a folder or a hub id.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it holds another model.
        """
        found = foreign.tensors(foreign.read(foreign.locate(checkpoint, *FILES)), "ema", "model", "state_dict")
        state = generator(found, checkpoint)
        janus = "encoder.down.0.block.0.conv1.weight" in state
        if janus and "decoder.up.0.upsample.conv.weight" not in state and "decoder.up.1.block.0.conv1.weight" in state:
            raise ValueError(f"{checkpoint} has the layout of taming-transformers; build it as image/taming")
        state = rename(state)
        state.pop("quantize.codebook_used", None)  # use counts of the training
        codebook = pop_tensor(state, "quantize.embedding.weight", checkpoint)
        arguments = {"codebook_size": codebook.shape[0], "dim": codebook.shape[1]} | architecture(state, checkpoint)
        return foreign.adopt(build(cls.name, **arguments), state | codebook_state(codebook), checkpoint)
