"""Conversion of published state dicts of the VQGAN family to the names of `VQAutoencoder`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import foreign

NAMES = (
    (r"\.mid\.(?:block_1|0)\.", ".middle.0."), (r"\.mid\.(?:attn_1|1)\.", ".middle.1."),
    (r"\.mid\.(?:block_2|2)\.", ".middle.2."), (r"\.(?:down|up|conv_blocks)\.(\d+)\.", r".stages.\1."),
    (r"\.(?:block|res)\.", ".blocks."), (r"\.attn\.", ".attentions."), (r"\.(?:down|up)sample\.", ".resample."),
    (r"\.nin_shortcut\.", ".shortcut."), (r"\.proj_out\.", ".project."),
    (r"^quant_conv\.", "encoder.project."), (r"^post_quant_conv\.", "decoder.project."),
)  # fmt: skip
"""Pattern of a published name → our name."""
PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
MARK = "post_quant_conv.weight"


def generator(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return encoder, codebook and decoder of a checkpoint, without the prefix of a surrounding model.

    Raises:
        ValueError: If the checkpoint does not hold exactly one VQGAN, or the variant is not supported.
    """
    prefixes = sorted({name.removesuffix(MARK) for name in state if name == MARK or name.endswith("." + MARK)})
    if len(prefixes) != 1:
        found = f"several, under {', '.join(prefixes)}" if prefixes else f"none: no {MARK}"
        raise ValueError(f"{source} must hold one VQGAN, it holds {found}")
    own = {n.removeprefix(prefixes[0]): v for n, v in state.items() if n.startswith(prefixes[0])}
    if "quantize.used" in own:
        raise ValueError(f"{source} maps its indices to a subset (quantize.used), which is not supported")
    if not {"decoder.mid.attn_1.q.weight", "decoder.mid.1.q.weight"} & set(own):
        raise ValueError(f"{source} must be of the VQGAN family; it has no attention in the middle of its decoder")
    return {name: value for name, value in own.items() if name.startswith(PARTS)}


def rename(state: Mapping[str, Tensor], *, finest_first: bool = False) -> dict[str, Tensor]:
    """Return a published state dict under our names.

    Args:
        state: Result of `generator`.
        finest_first: Whether the decoder's stages are numbered from the finest, as in taming-transformers, instead of
            from the coarsest.
    """
    last = max((int(m[1]) for name in state if (m := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    out = {}
    for name, value in state.items():
        if finest_first:
            name = re.sub(r"^(decoder\.up\.)(\d+)", lambda m: f"{m[1]}{last - int(m[2])}", name)
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        out[name] = value
    return out


def architecture(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return the arguments of `VQAutoencoder` that the shapes of a renamed state dict imply."""
    found = {int(m[1]) for name in state if (m := re.match(r"encoder\.stages\.(\d+)\.", name))}
    stages = range(len(found))
    widths = [f"encoder.stages.{i}.blocks.0.conv1.weight" for i in stages]
    shapes = foreign.sizes(state, ["encoder.conv_in.weight", "encoder.conv_out.weight", *widths])
    if found != set(stages) or any(len(shape) != 4 or shape[0] < 1 for shape in shapes):
        raise ValueError(
            f"{source} must hold an encoder of images, got stages {sorted(found)[:8]} of shapes {shapes[:2]}"
        )
    channels = shapes[0][0]
    return {
        "channels": channels,
        "multipliers": [shape[0] // channels for shape in shapes[2:]],
        "blocks": sum(bool(re.fullmatch(r"encoder\.stages\.0\.blocks\.\d+\.conv1\.weight", name)) for name in state),
        "attention": [i for i in stages if f"encoder.stages.{i}.attentions.0.q.weight" in state],
        "latents": shapes[1][0],
    }


def codebook_state(rows: Tensor) -> dict[str, Tensor]:
    """Return the state of an initialized `Codebook` with these entries, all in use."""
    return {
        "quantizer.codebook": rows[None], "quantizer.cluster_size": torch.ones(1, len(rows)),
        "quantizer.started": torch.ones(1, dtype=torch.bool),
    }  # fmt: skip


def pop_tensor(state: dict[str, Tensor], name: str, source: str) -> Tensor:
    """Remove and return a weight matrix or a bias. Raises ValueError if it is missing."""
    if name not in state or not state[name].ndim or (not name.endswith("bias") and state[name].ndim < 2):
        raise ValueError(f"{source} must hold a VQGAN with one codebook; it lacks {name}, or its rows")
    return state.pop(name)


def averaged_weights(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the moving averages of latent diffusion's LitEma under the names of the weights."""
    own = [name for name in state if not name.startswith(("model_ema.", "loss."))]
    averages = {name: f"model_ema.{name.replace('.', '')}" for name in own}
    if not any(average in state for average in averages.values()):
        raise ValueError(f"{source} must hold averaged weights (model_ema.…) for ema=True; it holds none")
    return {name: state[average] for name, average in averages.items() if average in state}
