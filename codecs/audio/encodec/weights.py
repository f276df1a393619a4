"""Conversion of EnCodec checkpoints of other projects, and the architecture that they imply."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import checkpoint, foreign
from ...validate import is_integer
from .. import seanet
from .kinds import BY_RATE, KINDS, OVERLAP, bits_per_second

FILES = ("encodec_24khz-d7cc33bc.th", "encodec_48khz-7e698e3e.th")
"""File names of the `encodec` package."""
NAMES = (
    (re.compile(r"^(en|de)coder\.(?:model|layers)\."), r"\1coder."),
    (re.compile(r"\.(?:conv|convtr)\.(?=conv\.|convtr\.|norm\.)"), "."),
    (re.compile(r"\.convtr\."), ".conv."),
)
CODEBOOK = re.compile(r"quantizer\.(?:vq\.)?layers\.(\d+)\._?codebook\.(inited|cluster_size|embed|embed_avg)")
FIXED = {
    "pad_mode": "reflect", "kernel_size": 7, "last_kernel_size": 7, "residual_kernel_size": 3,
    "dilation_growth_rate": 2, "compress": 2, "trim_right_ratio": 1.0,
}  # fmt: skip
"""Required values of a config.json of transformers. Our layers support no others."""


def locate(source: str, sample_rate: int | None) -> Path:
    """Return the path of a checkpoint. Of several files in a folder, the one with this sample rate is preferred."""
    files = sorted(FILES, key=lambda name: f"{str(sample_rate)[:2]}khz" not in name)
    return foreign.locate(source, *foreign.WEIGHTS, *files)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a state dict in our names, and the constructor arguments that the checkpoint implies.

    Raises:
        ValueError: If the checkpoint is not an EnCodec.
    """
    content = foreign.tensors(foreign.read(path), "best_state", "state_dict", "model")
    transformers = any(".layers." in name and name.startswith("encoder.") for name in content)
    state = rename(content)
    config = architecture(state, path)
    if transformers and (path.parent / "config.json").is_file():
        config |= _from_config(path.parent / "config.json")
    return state, config


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of the `encodec` package or of transformers to our names, but with `conv` for `convtr`.

    The moving averages of the codebooks are computed from the entries and their uses, since the stored averages may not
    agree with the entries.
    """
    out: dict[str, Tensor] = {}
    books: dict[int, dict[str, Tensor]] = {}
    for name, value in foreign.fold(state).items():
        if found := CODEBOOK.fullmatch(name):
            books.setdefault(int(found[1]), {})[found[2]] = value
            continue
        for pattern, ours in NAMES:
            name = pattern.sub(ours, name)
        out[name] = value
    shapes = {tuple(book["embed"].shape) if "embed" in book else () for book in books.values()}
    if books and (sorted(books) != list(range(len(books))) or len(shapes) > 1 or len(min(shapes)) != 2):
        raise ValueError(f"the {len(books)} codebooks of a checkpoint must be alike, got shapes {sorted(shapes)}")
    if books:
        rows = [books[q] for q in range(len(books))]
        codebook = torch.stack([row["embed"] for row in rows]).float()
        uses = torch.stack([row.get("cluster_size", row["embed"].new_zeros(len(row["embed"]))) for row in rows])
        uses = torch.where((uses > 0).any(1, keepdim=True), uses, 1.0).float()
        out["quantizer.codebook"], out["quantizer.cluster_size"] = codebook, uses
        out["quantizer.codebook_sum"] = codebook * uses[..., None]
        out["quantizer.started"] = torch.ones(len(rows), dtype=torch.bool)
    return out


def architecture(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Return the architecture that the shapes imply. Raises ValueError for other models."""
    convs = {}
    for name, value in state.items():
        if found := re.fullmatch(r"encoder\.(\d+)\.conv\.weight", name):
            convs[int(found[1])] = tuple(value.shape)
    shapes = [convs[i] for i in sorted(convs)]
    kernels = all(len(shape) == 3 and shape[2] > 1 for shape in shapes)
    if len(shapes) < 3 or not kernels or "quantizer.codebook" not in state:
        raise ValueError(f"{path} must be an EnCodec; it lacks encoder.model.*.conv.conv or quantizer.vq.layers.*")
    _, entries, dim = state["quantizer.codebook"].shape
    ratios = [kernel // 2 for _, _, kernel in reversed(shapes[1:-1])]
    units = sum(bool(re.fullmatch(r"encoder\.\d+\.block\.1\.conv\.weight", name)) for name in state)
    normed = any(".norm." in name for name in state)
    direct = units and not any(".shortcut." in name for name in state)
    return {
        "kind": "48khz" if normed else "32khz" if direct else "24khz",
        "channels": shapes[0][1],
        "ratios": ratios,
        "filters": shapes[0][0],
        "residual": units // len(ratios),
        "lstm": sum(bool(re.fullmatch(r"encoder\.\d+\.lstm\.weight_ih_l\d+", name)) for name in state),
        "codebook_size": entries,
        "dim": dim,
    }


def _from_config(path: Path) -> dict[str, Any]:
    """Return the arguments in a config.json of transformers. Raises ValueError for unsupported layers."""
    config = checkpoint.read_config(path.parent)
    if config.get("model_type") != "encodec":
        raise ValueError(f"model_type in {path} must be 'encodec', got {config.get('model_type')!r:.80}")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} in {path} must be {value!r} for audio/encodec, got {config[key]!r:.80}")
    chunks = (config.get("normalize", False), config.get("chunk_length_s"))
    chunks += (config.get("overlap"),) if chunks[1] else ()
    layers = seanet.Layers(
        causal=config.get("use_causal_conv", True), reflect=True,
        norm=config.get("norm_type") == "time_group_norm", shortcut=config.get("use_conv_shortcut", True),
    )  # fmt: skip
    kind = next((name for name, kind in KINDS.items() if kind.layers == layers), None)
    if kind is None or chunks != ((True, 1, OVERLAP) if KINDS[kind].chunked else (False, None)):
        raise ValueError(
            f"{path} must combine layers and chunks like a published model, got {layers} with (normalize, "
            f"chunk_length_s, overlap) {chunks}"
        )
    return {
        "kind": kind,
        "sample_rate": config.get("sampling_rate", 24_000),
        "bandwidths": list(config.get("target_bandwidths", KINDS["24khz"].bandwidths)),
    }


def arguments(config: dict[str, Any], given: dict[str, Any], count: int, path: Path) -> dict[str, Any]:
    """Return the constructor arguments for a checkpoint of `count` codebooks. `given` overrides `config`."""
    out = {**config, **given}
    kind, stride = config["kind"], math.prod(config["ratios"])
    if "sample_rate" not in out:
        if kind != "48khz" and stride != KINDS[kind].stride:
            raise ValueError(f"{path} does not state its sample rate; pass it, such as sample_rate=24000")
        out["sample_rate"] = next(hz for hz, usual in BY_RATE.items() if usual == kind)
    hz = out["sample_rate"]
    if hz != config.get("sample_rate", hz):
        raise ValueError(f"sample_rate of {path} must be {config['sample_rate']}, got {hz!r:.80}")
    if "kind" not in given and "sample_rate" not in config and hz in (24_000, 48_000) and BY_RATE[hz] != kind:
        raise ValueError(f"sample_rate must be that of {path}, which has the layers of the {kind} model, got {hz}")
    if "bandwidths" not in out and is_integer(hz, 1, 384_000):
        full = round(count * bits_per_second(hz, stride, config["codebook_size"]) / 1000, 6)
        out["bandwidths"] = [*(v for v in KINDS[out["kind"]].bandwidths if v < full), full]
    if isinstance(out.get("bandwidths"), list | tuple):  # 6 and 6.0 are one configuration
        out["bandwidths"] = [float(v) if type(v) is int else v for v in out["bandwidths"]]
    return out
