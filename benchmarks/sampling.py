"""Greedy sampling from a transformer of 24 million weights, beside the same weights in transformers' Qwen3."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from tokenloom.models import generate, layers
from tokenloom.models.transformer import Transformer

from .case import Case

SIZES = {"width": 512, "layers": 8, "heads": 8, "kv_heads": 4, "hidden": 1376, "context": 256}
IDS, PROMPT, NEW = 4096, 32, 64
ROWS = (1, 2, 16)


@dataclass(frozen=True)
class AnyId:
    """A grammar that allows all ids at each step."""

    kind: int = 0
    place: int = 0

    def advance(self, id: int) -> AnyId:
        return self


class AnyIds:
    stopped = AnyId(kind=1)

    def __init__(self) -> None:
        self.kinds = [torch.arange(IDS)]

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(ids), torch.zeros_like(ids)


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    ours = Transformer(IDS, 1, **SIZES).eval()
    with torch.no_grad():
        for block in ours.blocks:  # which are zero in a new transformer
            block.attention.out.weight.normal_(std=0.02)
            block.feed.down.weight.normal_(std=0.02)
    theirs, rounded = _same_weights(ours), copy.deepcopy(ours).use_int8()
    for rows in ROWS:
        for weights, model in {"float32": ours, "int8": rounded}.items():
            if rows <= layers.FEW or model is ours:
                yield _case(rows, weights, model, theirs)


def _case(rows: int, weights: str, ours: Transformer, theirs: Qwen3ForCausalLM) -> Case:
    prompts = torch.randint(0, IDS, (rows, PROMPT), generator=torch.Generator().manual_seed(0))

    def sample() -> Tensor:
        states = [AnyId()] * rows
        return torch.stack(generate.sample(ours, AnyIds(), [*prompts], states, temperature=0, max_tokens=NEW, seed=0))

    @torch.inference_mode()
    def generate_() -> Tensor:
        mask = torch.ones_like(prompts)
        out = theirs.generate(prompts, attention_mask=mask, do_sample=False, max_new_tokens=NEW, pad_token_id=0)
        return out[:, PROMPT:]

    def read_weights() -> None:
        for _ in range(NEW):
            for weight in ours.parameters():
                weight.sum()

    work = f"{NEW} ids of {rows} rows, 24 million weights in {weights}"
    return Case("sampling", work, "transformers: generate", sample, generate_, _same_ids, read_weights)


@torch.no_grad()
def _same_weights(ours: Transformer) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=IDS, hidden_size=SIZES["width"], intermediate_size=SIZES["hidden"], head_dim=64,
        num_hidden_layers=SIZES["layers"], num_attention_heads=SIZES["heads"], num_key_value_heads=SIZES["kv_heads"],
        max_position_embeddings=SIZES["context"], rms_norm_eps=1e-6, tie_word_embeddings=False, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )  # fmt: skip
    theirs = Qwen3ForCausalLM(config).eval()
    embedded = ours.embedding.weight + ours.places.weight
    theirs.model.embed_tokens.weight.copy_(torch.nn.functional.rms_norm(embedded, embedded.shape[-1:]))
    theirs.lm_head.weight.copy_(ours.embedding.weight)
    for layer, block in zip(theirs.model.layers, ours.blocks, strict=True):
        sizes = [layer.self_attn.q_proj.out_features, *2 * [layer.self_attn.k_proj.out_features]]
        for name, weight in zip("qkv", block.attention.qkv.weight.split(sizes), strict=True):
            getattr(layer.self_attn, f"{name}_proj").weight.copy_(weight)
        layer.self_attn.o_proj.weight.copy_(block.attention.out.weight)
        gate, up = block.feed.up.weight.chunk(2)
        layer.mlp.gate_proj.weight.copy_(gate)
        layer.mlp.up_proj.weight.copy_(up)
        layer.mlp.down_proj.weight.copy_(block.feed.down.weight)
    return theirs


def _same_ids(ours: Tensor, theirs: Tensor) -> str:
    """Rounded weights decide near ties otherwise, after which a row goes on otherwise."""
    share = (ours == theirs).double().mean().item()
    assert share > 0.5
    return "equal" if share == 1 else f"{share:.0%} of the ids equal"
