"""Adapters of the image tokenizers in transformers."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import foreign
from ...validate import are_integers, require_integer

WITHOUT_DECODER = ("chameleon", "chameleon_vqgan", "glm_image", "glm_image_vqmodel", "flava", "flava_image_codebook")
FIXED = {"in_channels": 3, "out_channels": 3, "double_latent": False}
"""Config keys with a required value."""


class ImageFamily(ABC):
    """Adapter of one architecture.

    Attributes:
        config_class: Name of the config class in transformers.
        model_class: Name of the model class in transformers.
        whole_model: `model_type` of the whole model that contains the tokenizer.
        entries: Config key of the codebook size.
        numbers: Config key of an integer → bounds.
        lists: Config key of a list of integers → bounds.
    """

    config_class: ClassVar[str]
    model_class: ClassVar[str]
    whole_model: ClassVar[str]
    entries: ClassVar[str]
    numbers: ClassVar[dict[str, tuple[int, int]]]
    lists: ClassVar[dict[str, tuple[int, int]]] = {"channel_multiplier": (1, 64)}

    def prepare(self, model: nn.Module) -> None:  # noqa: B027
        """Correct weights that the library does not prepare. By default, do nothing."""

    @abstractmethod
    def encode(self, model: nn.Module, x: Tensor) -> Tensor:
        """Map normalized images (batch, 3, height, width) to indices (batch, *grid)."""

    @abstractmethod
    def decode(self, model: nn.Module, index: Tensor) -> Tensor:
        """Map indices (batch, *grid) to normalized images."""


class Janus(ImageFamily):
    """Janus (arXiv 2410.13848), with LlamaGen's tokenizer.

    Janus's own code scales entries to unit length for encoding and decoding; the library (5.23) for decoding only. Here
    the entries are stored with unit length.
    """

    config_class, model_class, whole_model, entries = "JanusVQVAEConfig", "JanusVQVAE", "janus", "num_embeddings"
    numbers: ClassVar = {
        "embed_dim": (1, 4096), "num_embeddings": (2, 2**20), "latent_channels": (1, 4096), "base_channels": (32, 4096),
        "num_res_blocks": (1, 16),
    }  # fmt: skip

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        model.quantize.embedding.weight.copy_(F.normalize(model.quantize.embedding.weight, dim=-1))

    def encode(self, model: nn.Module, x: Tensor) -> Tensor:
        stride = 2 ** (len(model.config.channel_multiplier) - 1)
        return model.encode(x).image_tokens.reshape(len(x), x.shape[2] // stride, x.shape[3] // stride)

    def decode(self, model: nn.Module, index: Tensor) -> Tensor:
        model.quantize.quant_state_dims = list(index.shape[1:])  # the default is a square of `num_patches`
        return model.decode(index.flatten(1))


class Emu3(ImageFamily):
    """Emu3 (arXiv 2409.18869), a video tokenizer. An image is coded as a clip of equal frames."""

    config_class, model_class, whole_model, entries = "Emu3VQVAEConfig", "Emu3VQVAE", "emu3", "codebook_size"
    numbers: ClassVar = {
        "codebook_size": (2, 2**20), "embed_dim": (1, 4096), "latent_channels": (1, 4096),
        "temporal_downsample_factor": (1, 16), "base_channels": (32, 4096), "num_res_blocks": (1, 16),
        "hidden_size": (1, 2**16), "num_attention_heads": (1, 256),
    }  # fmt: skip
    lists: ClassVar = {**ImageFamily.lists, "attn_resolutions": (0, 7)}

    def encode(self, model: nn.Module, x: Tensor) -> Tensor:
        return torch.stack(model.encode(x, image_sizes=[x.shape[2:]] * len(x)).image_tokens)

    def decode(self, model: nn.Module, index: Tensor) -> Tensor:
        return model.decode(index)


FAMILIES: dict[str, ImageFamily] = {"janus_vqgan": Janus(), "emu3_vqgan": Emu3()}
"""Model type → adapter. No other model class of transformers is built."""
MODEL_TYPES = (*FAMILIES, *(family.whole_model for family in FAMILIES.values()))
"""Accepted values of `model_type`: tokenizers, and whole models with a `vq_config`."""


def build_config(model: Any) -> tuple[ImageFamily, Any]:
    """Return the adapter and the transformers config for plain values.

    Keys that do not describe the architecture have no effect.

    Raises:
        ValueError: If the model type is not in `FAMILIES`, or a value is unknown or out of bounds.
    """
    kind = model.get("model_type") if isinstance(model, Mapping) else type(model).__name__
    if not isinstance(model, Mapping) or not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"model_type of image/hf must be one of {', '.join(FAMILIES)}, got {kind!r:.80}")
    family = FAMILIES[kind]
    cls = foreign.from_transformers(family.config_class)
    declared = {field.name for field in dataclasses.fields(cls)} | {"model_type"}
    if stray := sorted(set(map(str, model)) - declared):
        raise ValueError(f"{kind} does not take {stray[0]!r:.80}")
    for name, (low, high) in family.numbers.items():
        if name in model:
            require_integer(name, model[name], low, high)
    for name, (low, high) in family.lists.items():
        if name in model and model[name] != [] and not are_integers(model[name], low, high, longest=8):
            raise ValueError(f"{name} must be a list of up to 8 integers from {low} to {high}, got {model[name]!r:.80}")
    for name, value in FIXED.items():
        if model.get(name, value) != value:
            raise ValueError(f"{name} must be {value}, got {model[name]!r:.80}")
    if model.get("channel_multiplier") == []:
        raise ValueError("channel_multiplier must not be empty")
    return family, cls(**{name: model[name] for name in (*family.numbers, *family.lists) if name in model})


def architecture(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the tokenizer's architecture from a `config.json`, defaults included.

    Args:
        config: Config of a tokenizer or of a whole model.
        path: Path of the file, for messages.

    Raises:
        ValueError: If the model is of another type, or a value is out of bounds.
    """
    kind = config.get("model_type")
    if kind in WITHOUT_DECODER:
        raise ValueError(f"{path}: the image tokenizer of {kind} has no decoder in transformers; image/hf needs one")
    inner = next((name for name, family in FAMILIES.items() if family.whole_model == kind), None)
    if inner is not None:
        nested = config.get("vq_config")
        config = {**(nested if isinstance(nested, dict) else {}), "model_type": inner}
    elif not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{path}: model_type of image/hf must be one of {', '.join(MODEL_TYPES)}, got {kind!r:.80}")
    family = FAMILIES[config["model_type"]]
    names = (*family.numbers, *family.lists)
    _, full = build_config({name: config[name] for name in ("model_type", *names, *FIXED) if name in config})
    plain = {name: getattr(full, name) for name in names}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
    return {"model_type": config["model_type"], **plain}
