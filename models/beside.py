"""What checkpoints of models share: their weights, and the codecs that they need beside them or by name."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from tokenloom import codecs
from tokenloom.codecs import Codec, checkpoint, storage


def folder(name: str) -> str:
    """The folder of a channel's codec inside the model's."""
    plain = name.replace("/", "-")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", plain):
        raise ValueError(f"{name!r} is no name for a channel; wanted letters, digits, '_', '.', '-' and one '/'")
    return plain


def _ships(name: str) -> bool:
    """Whether a folder of this name comes with the package, without reading any."""
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+", name)) and (checkpoint.shipped_root() / name / "config.yaml").is_file()


def at_hand(name: str, codec: Codec) -> bool:
    """Whether `name` alone gives this very codec, wherever the package is installed."""
    if not (_ships(name) or name in codecs.names()):
        return False
    try:
        return codecs.load(name).fingerprint == codec.fingerprint
    except ValueError:  # a registered name that needs training or arguments, or the name of a model
        return False


def codec(model: Path, name: str) -> Codec:
    """From the model's own folder, else by a shipped or registered name: a config names no paths and no downloads."""
    own = model / folder(name)
    if (own / "config.yaml").is_file():
        return codecs.load(own)
    if not (_ships(name) or name in codecs.names()):
        known = ", ".join((*codecs.shipped(), *codecs.names()))
        raise ValueError(f"it needs the codec {name}, which is neither in {own} nor one of {known}")
    return codecs.load(name)


def weights(model: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint in float32; FileNotFoundError or ValueError in one line."""
    from safetensors.torch import load_file

    path = model / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{model} holds no model.safetensors")
    try:
        return storage.widen(load_file(path))
    except Exception as error:  # safetensors raises its own untyped error on damaged files
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
