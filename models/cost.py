"""What a transformer costs in parameters, arithmetic and memory, computed from its config.

The tests compare each figure with the network: parameters and cache exactly, FLOPs with PyTorch's counter, activations
with the tensors that autograd saves.
"""

from __future__ import annotations

from dataclasses import dataclass

STATE_BYTES = 20
"""Bytes of training state per parameter: weight, gradient, two moments of AdamW, moving average, each in float32."""
CAST_BYTES = 2
"""Bytes per parameter of the bfloat16 copies that autocast makes, and keeps until the backward pass."""
LOGIT_BYTES = 8
"""Bytes per id and entry of the vocabulary: logits and their gradient in float32."""


@dataclass(frozen=True)
class TransformerCost:
    """The cost of a `Transformer` with this config. A product and a sum are two FLOPs.

    Args:
        vocabulary: Number of ids.
        places: Number of places.
        width: Width of the residual stream.
        layers: Number of blocks.
        heads: Number of query heads.
        kv_heads: Number of key and value heads.
        hidden: Width of the feed-forward layers.
        dropout: Dropout rate, which costs nothing here.
        context: Largest number of ids in a sequence.
    """

    vocabulary: int
    places: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    dropout: float
    context: int

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def matrices(self) -> int:
        """Number of weights that each id is multiplied with: all blocks, and the tied output for all ids."""
        attention = (self.heads + 2 * self.kv_heads) * self.head_dim + self.width
        return self.width * (self.layers * (attention + 3 * self.hidden) + self.vocabulary)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        norms = self.layers * (2 * self.width + (self.heads + self.kv_heads) * self.head_dim) + self.width
        return self.matrices + self.places * self.width + norms

    def forward_flops(self, keys: int | None = None) -> int:
        """Return the FLOPs of a forward pass for each id, which attends to `keys` ids; default: the context.

        Sequences are packed with a mask of documents, so the products of masked pairs are computed, too.
        """
        return 2 * self.matrices + 4 * self.layers * self.width * (self.context if keys is None else keys)

    def training_flops(self, keys: int | None = None) -> int:
        """Return the FLOPs of a forward and a backward pass for each id, without recomputation."""
        return 3 * self.forward_flops(keys)

    def cache_bytes(self, ids: int | None = None, *, itemsize: int = 4) -> int:
        """Return the bytes of keys and values of `ids` ids of one row; default: the context."""
        return 2 * self.layers * self.kv_heads * self.head_dim * itemsize * (self.context if ids is None else ids)

    @property
    def activation_bytes(self) -> int:
        """Bytes that each id keeps for the backward pass in bf16-mixed, with a fused kernel for attention.

        Logits, masks of documents and masks of dropout are extra. Kernels with a mask repeat keys and values.
        """
        keys = self.kv_heads * self.head_dim
        norms = 4 * (2 * self.width + self.width + keys)  # float32: before attention and feed-forward, queries and keys
        attention = 2 * (self.width + 3 * self.width + keys + 2 * self.width)  # inputs; queries, keys, values; outputs
        feed = 2 * (self.width + 4 * self.hidden)  # inputs; gate and value, their product, silu(gate)
        return self.layers * (norms + attention + feed)

    def state_bytes(self, processes: int = 1) -> int:
        """Return the bytes of weights, gradients, AdamW and moving average on each of the GPUs that share them."""
        return STATE_BYTES * self.parameters // processes

    def pass_bytes(self, ids: int, *, accumulate: bool = False) -> int:
        """Return the bytes that a forward and a backward pass of `ids` ids add on each GPU, in bf16-mixed.

        Args:
            ids: Number of ids: sequences of a part of the batch · context.
            accumulate: Whether a step has several parts. FSDP2 then keeps gradients of all weights between them.
        """
        whole = CAST_BYTES * self.matrices + (4 * self.parameters if accumulate else 0)
        return whole + ids * (self.activation_bytes + LOGIT_BYTES * self.vocabulary)

    @property
    def gathered_bytes(self) -> int:
        """Bytes that FSDP2 moves to each GPU for a part of the batch: weights in both passes, and gradients."""
        return 3 * 4 * self.parameters
