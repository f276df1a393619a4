"""Conversion of checkpoints of Kyutai's moshi to transformers' MimiModel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .states import sizes

FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"
HEAD = 64
"""Channels of an attention head of Mimi. The weights do not state it."""
NAMES = (
    (r"\.(?:conv|convtr)(?:\.(?:conv|convtr))+\.", ".conv."),
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"^(encoder|decoder)_transformer\.transformer\.", r"\1_transformer."),
    (r"^quantizer\.rvq_first\.(?:vq\.)?", "quantizer.semantic_residual_vector_quantizer."),
    (r"^quantizer\.rvq_rest\.(?:vq\.)?", "quantizer.acoustic_residual_vector_quantizer."),
    (r"\._codebook\._initialized$", ".codebook.initialized"),
    (r"\._codebook\.embedding_sum$", ".codebook.embed_sum"),
    (r"\._codebook\.", ".codebook."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"\.self_attn\.out_projs?\.(?:0\.)?", ".self_attn.o_proj."),
)
"""Pattern of Kyutai's name → name of the hub's Mimi, which every release of transformers reads."""


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the transformers config and state dict for Kyutai's state dict.

    Queries, keys and values are split. Rotary pairs move from neighboring channels to the halves of a head.
    """
    out = {}
    for name, value in state.items():
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        if match := re.fullmatch(r"(.+\.self_attn\.)(?:in_proj_weight|in_projs\.0\.weight)", name):
            query, key, value = value.chunk(3)
            out[f"{match[1]}q_proj.weight"], out[f"{match[1]}k_proj.weight"] = _halves(query), _halves(key)
            name = f"{match[1]}v_proj.weight"
        out[name] = value
    return _config(out), out


def _halves(weight: Tensor) -> Tensor:
    """Reorder rotary pairs: channels (2i, 2i + 1) of a head in moshi, (i, i + 32) in transformers."""
    heads = weight.shape[0] // HEAD
    return weight.reshape(heads, HEAD // 2, 2, -1).transpose(1, 2).reshape(weight.shape).contiguous()


def _config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the config that the shapes imply. The sample rate and other values are those of Mimi."""
    semantic, acoustic = (f"quantizer.{kind}_residual_vector_quantizer" for kind in ("semantic", "acoustic"))
    book, width, fc, first = sizes(
        state,
        (
            f"{semantic}.layers.0.codebook.embed_sum", "downsample.conv.weight",
            "encoder_transformer.layers.0.mlp.fc1.weight", "encoder.layers.0.conv.weight",
        ),
    )  # fmt: skip
    stages = [int(n.split(".")[2]) for n in state if re.fullmatch(r"decoder\.layers\.\d+\.conv\.weight", n)]
    strides = [state[f"decoder.layers.{stage}.conv.weight"].shape[-1] // 2 for stage in sorted(stages)[1:-1]]
    layers = {n.split(".")[2] for n in state if n.startswith("encoder_transformer.layers.")}
    few, rest = (
        sum(n.startswith(f"{kind}.layers.") and n.endswith(".embed_sum") for n in state)
        for kind in (semantic, acoustic)
    )
    return {
        "model_type": "mimi", "sampling_rate": 24000, "hidden_size": width[0], "num_filters": first[0],
        "audio_channels": first[1], "upsampling_ratios": strides, "codebook_size": book[0], "codebook_dim": book[1],
        "vector_quantization_hidden_dimension": book[1], "num_quantizers": few + rest, "num_semantic_quantizers": few,
        "num_hidden_layers": len(layers), "intermediate_size": fc[0], "upsample_groups": width[0],
        "num_attention_heads": width[0] // HEAD, "num_key_value_heads": width[0] // HEAD,
    }  # fmt: skip
