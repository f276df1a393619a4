"""Save and load omni models and diffusion decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenloom import devices, threads
from tokenloom.codecs import checkpoint

from .diffusion import decoder
from .diffusion.decoder import DiffusionDecoder
from .omni import model as omni
from .omni.model import Omni

WEIGHTS = ("float32", "int8")


def names() -> list[str]:
    """Return the names of the omni models that ship with the package."""
    return checkpoint.shipped("omni")


def save(
    model: Omni | DiffusionDecoder, folder: str | Path, *, store: str = "float32",
    config_file: str = checkpoint.CONFIGS[0], **extra: Any,
) -> None:  # fmt: skip
    """Write a model or a decoder to a folder that `load` reads, together with the codecs that no name loads.

    Args:
        model: The model or decoder.
        folder: Folder of `model.safetensors` and the config.
        store: Type of the stored weights: float32, float16 or int8.
        config_file: "config.yaml", or "config.json", the hub's convention.
        **extra: More plain values for the config, such as `trained={…}`.

    Raises:
        OSError: If the files cannot be written.
    """
    write: Any = decoder.save if isinstance(model, DiffusionDecoder) else omni.save
    write(model, folder, store=store, config_file=config_file, **extra)


def load(
    source: str | Path, *, device: str | torch.device | None = None, weights: str = "float32"
) -> Omni | DiffusionDecoder:
    """Load a trained model or a diffusion decoder in eval mode. Nothing in a checkpoint is executed.

    Args:
        source: A folder, a shipped name, or a hub id.
        device: auto, cpu, cuda, cuda:1 or mps (see `devices.resolve`); None for PyTorch's default, the CPU.
        weights: float32, or int8 to sample up to 8 rows on a CPU with weights of 8 bits, 1.2 to 2.2 times as fast.
            The bits per token of omni-small do not change in the third digit.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the source is unknown, the checkpoint is damaged, its weights do not fit its config, this machine
            lacks the device, or a codec differs from the one in training. The message then states both fingerprints.
            Also for int8 weights of a diffusion decoder, or on another device than a CPU.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    place = None if device is None else devices.resolve(device)
    with threads.limit():  # tensors are many and small; see ROWS in omni/model.py
        folder = checkpoint.find(str(source), "omni", "decoder")
        config = checkpoint.read_config(folder)
        model = (decoder if "decoder" in config else omni).read(folder, config).to(place)
        if weights == "int8":
            if not isinstance(model, Omni) or model.device.type != "cpu":
                raise ValueError(f"weights=int8 needs an omni model on a CPU, got {model} on {model.device}")
            model.transformer.use_int8()
        return model
