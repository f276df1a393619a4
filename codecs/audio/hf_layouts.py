"""The official checkpoints of DAC and Mimi under the names and shapes that transformers gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import foreign

MIMI_FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"
DAC_FILE = "weights.pth"
DAC_DEFAULTS = {
    "encoder_dim": 64, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 1536, "decoder_rates": [8, 8, 4, 2],
    "n_codebooks": 9, "codebook_size": 1024, "codebook_dim": 8, "sample_rate": 44100,
}  # fmt: skip
"""What Descript's DAC is where a checkpoint does not say."""
HEAD = 64
"""Channels of one attention head in Mimi, which its weights do not tell."""


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint of descript-audio-codec or moshi → a transformers config, and the state dict that belongs to it."""
    found = foreign.read(path)
    if isinstance(found.get("state_dict"), Mapping) and isinstance(found.get("metadata"), Mapping):
        return dac(foreign.tensors(found, "state_dict"), dict(found["metadata"].get("kwargs") or {}))
    state = foreign.tensors(found)
    if any(name.startswith("quantizer.rvq_first.") for name in state):
        return mimi(state)
    raise ValueError(
        f"{path} is no tokenizer that audio/hf knows: neither a folder of transformers with config.json beside the "
        "weights, nor a checkpoint of descript-audio-codec (.pth) or moshi (.safetensors)"
    )


def dac(state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Descript's names, weight norm folded."""
    given = {**DAC_DEFAULTS, **{k: v for k, v in kwargs.items() if v is not None}}
    if not isinstance(given["codebook_dim"], int):
        raise ValueError(f"codebook_dim {given['codebook_dim']!r:.80} of this DAC is not one number")
    stages = (len(given["encoder_rates"]), len(given["decoder_rates"]))
    state = {_dac_name(name, *stages): value for name, value in foreign.fold(state).items()}
    model = {
        "model_type": "dac", "encoder_hidden_size": given["encoder_dim"], "decoder_hidden_size": given["decoder_dim"],
        "downsampling_ratios": list(given["encoder_rates"]), "upsampling_ratios": list(given["decoder_rates"]),
        "n_codebooks": given["n_codebooks"], "codebook_size": given["codebook_size"],
        "codebook_dim": given["codebook_dim"], "sampling_rate": given["sample_rate"],
        "hidden_size": given.get("latent_dim") or given["encoder_dim"] * 2 ** len(given["encoder_rates"]),
    }  # fmt: skip
    return model, state


def _dac_name(name: str, encoders: int, decoders: int) -> str:
    if match := re.fullmatch(r"(encoder)\.block\.(\d+)\.(.+)|(decoder)\.model\.(\d+)\.(.+)", name):
        side, index, rest = (part for part in match.groups() if part)
        index, stages = int(index), encoders if side == "encoder" else decoders
        if index == 0:
            return f"{side}.conv1.{rest}"
        if index > stages:
            return f"{side}.{'snake1' if index == stages + 1 else 'conv2'}.{rest}"
        return f"{side}.block.{index - 1}.{_dac_block(rest, side)}"
    return name


def _dac_block(rest: str, side: str) -> str:
    """Inside a stage: three residual units before the encoder's strided convolution, or after the decoder's."""
    _, index, rest = rest.split(".", 2)
    unit = int(index) if side == "encoder" else int(index) - 2
    if 0 <= unit <= 2:
        _, index, rest = rest.split(".", 2)
        return f"res_unit{unit + 1}.{('snake1', 'conv1', 'snake2', 'conv2')[int(index)]}.{rest}"
    if rest == "alpha":
        return "snake1.alpha"
    return f"{'conv1' if side == 'encoder' else 'conv_t1'}.{rest}"


MIMI_NAMES = (
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
"""Kyutai's names → those of Mimi on the hub, which every release of transformers reads."""


def mimi(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Kyutai's names; queries, keys and values apart, with rotary pairs as halves instead of neighbours."""
    out = {}
    for name, value in state.items():
        for pattern, new in MIMI_NAMES:
            name = re.sub(pattern, new, name)
        if match := re.fullmatch(r"(.+\.self_attn\.)(?:in_proj_weight|in_projs\.0\.weight)", name):
            query, key, value = value.chunk(3)
            out[f"{match[1]}q_proj.weight"], out[f"{match[1]}k_proj.weight"] = _halves(query), _halves(key)
            name = f"{match[1]}v_proj.weight"
        out[name] = value
    return _mimi_config(out), out


def _halves(weight: Tensor) -> Tensor:
    """Channels (2i, 2i+1) of a head turn together in moshi, (i, i + 32) in transformers."""
    heads = weight.shape[0] // HEAD
    return weight.reshape(heads, HEAD // 2, 2, -1).transpose(1, 2).reshape(weight.shape).contiguous()


def _mimi_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The architecture as far as the weights tell; heads of 64 channels, 24 kHz and the rest are Mimi's."""
    semantic, acoustic = (f"quantizer.{kind}_residual_vector_quantizer" for kind in ("semantic", "acoustic"))
    book, width, fc, first = foreign.sizes(
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
