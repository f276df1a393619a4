"""Conversion of checkpoints of descript-audio-codec to transformers' DacModel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .states import fold

FILE = "weights.pth"
DEFAULTS = {
    "encoder_dim": 64, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 1536, "decoder_rates": [8, 8, 4, 2],
    "n_codebooks": 9, "codebook_size": 1024, "codebook_dim": 8, "sample_rate": 44100,
}  # fmt: skip
"""Defaults of descript-audio-codec for constructor arguments that a checkpoint omits."""


def convert(state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the transformers config and state dict for Descript's state dict and constructor arguments."""
    given = {**DEFAULTS, **{k: v for k, v in kwargs.items() if v is not None}}
    if not isinstance(given["codebook_dim"], int):
        raise ValueError(f"codebook_dim of a DAC must be an integer, got {given['codebook_dim']!r:.80}")
    stages = (len(given["encoder_rates"]), len(given["decoder_rates"]))
    model = {
        "model_type": "dac", "encoder_hidden_size": given["encoder_dim"], "decoder_hidden_size": given["decoder_dim"],
        "downsampling_ratios": list(given["encoder_rates"]), "upsampling_ratios": list(given["decoder_rates"]),
        "n_codebooks": given["n_codebooks"], "codebook_size": given["codebook_size"],
        "codebook_dim": given["codebook_dim"], "sampling_rate": given["sample_rate"],
        "hidden_size": given.get("latent_dim") or given["encoder_dim"] * 2 ** len(given["encoder_rates"]),
    }  # fmt: skip
    return model, {_rename(name, *stages): value for name, value in fold(state).items()}


def _rename(name: str, encoders: int, decoders: int) -> str:
    """Return the transformers name of a tensor. `encoders` and `decoders` are the numbers of stages."""
    if match := re.fullmatch(r"(encoder)\.block\.(\d+)\.(.+)|(decoder)\.model\.(\d+)\.(.+)", name):
        side, index, rest = (part for part in match.groups() if part)
        index, stages = int(index), encoders if side == "encoder" else decoders
        if index == 0:
            return f"{side}.conv1.{rest}"
        if index > stages:
            return f"{side}.{'snake1' if index == stages + 1 else 'conv2'}.{rest}"
        return f"{side}.block.{index - 1}.{_rename_in_stage(rest, side)}"
    return name


def _rename_in_stage(rest: str, side: str) -> str:
    """Rename within a stage. Its residual units precede the encoder's strided convolution and follow the decoder's."""
    _, index, rest = rest.split(".", 2)
    unit = int(index) if side == "encoder" else int(index) - 2
    if 0 <= unit <= 2:
        _, index, rest = rest.split(".", 2)
        return f"res_unit{unit + 1}.{('snake1', 'conv1', 'snake2', 'conv2')[int(index)]}.{rest}"
    if rest == "alpha":
        return "snake1.alpha"
    return f"{'conv1' if side == 'encoder' else 'conv_t1'}.{rest}"
