"""Export a codec to a folder. Either all files are written, or none."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from tokenloom import errors, lock
from tokenloom.files import FileSet

from .. import validate
from ..codec import Codec, LatentCodec
from . import agreement, description, programs
from .agreement import Agreement
from .programs import FORMATS, PARTS

MAX_DIFFERING = 1e-3
"""Largest share of codes that may differ from PyTorch's, since rounding decides between close entries."""
MAX_ERROR = 1e-2
"""Largest error of a decoded sample. The usual error is about 1e-6."""
MAX_BYTES = 2**31 - 2**20
"""Most bytes of weights of one ONNX file, the limit of a protobuf message."""
FILES = {f"{part}{suffix}" for part in PARTS for suffix in FORMATS.values()} | {"config.json", "README.md"}
EXPORT = FileSet("export", ("config.json", *sorted(FILES - {"config.json"})))


def export(codec: Codec, folder: str | Path, format: str = "onnx", setting: Any = None) -> Agreement:
    """Export a codec to a folder: encoder, decoder, `config.json`, and a README.md with an example.

    The encoder maps signals, float32 (batch, channels, *size), to indices, int64 (batch, quantizers, *grid). The
    decoder maps indices to signals of whole strides, clamped to range; crop them to the size of the input. Batch and
    sizes are dynamic. For `image/flex` the grid consists of tiles, and the quantizers are the tokens of a tile. An
    existing export is replaced when the new one is complete and checked.

    Args:
        codec: A learned codec. A torch.export program runs on its device; ONNX Runtime chooses a device itself.
        folder: New or empty folder, or folder of an export.
        format: "onnx" (needs the extra `export`) or "torch.export".
        setting: Fixed setting of the encoder; None for the default. The decoder takes the indices of this setting. For
            ordered codecs, −1 marks an unused quantizer.

    Returns:
        Difference between the programs and the codec.

    Raises:
        ValueError: If the codec cannot be exported, the folder is in use or holds other files, a package is missing, or
            more than 0.1 % of the codes differ from PyTorch's. The folder then stays unchanged.
    """
    folder = Path(folder).absolute()
    codec = check(codec, folder, format)
    setting = validate.setting(setting, codec)
    parent = next(parent for parent in folder.parents if parent.is_dir())
    with tempfile.TemporaryDirectory(dir=parent, prefix=".export-") as scratch:
        staged = Path(scratch)
        axes = description.layout(codec, setting)
        device = torch.device("cpu") if format == "onnx" else codec.device
        for part, program in zip(PARTS, programs.trace(codec, setting, device), strict=True):
            programs.write(program, staged / f"{part}{FORMATS[format]}", axes)
        measured = agreement.measure(codec, setting, device, *programs.load(staged, format))
        if measured.differing > MAX_DIFFERING * measured.tokens or not measured.largest <= MAX_ERROR:
            raise ValueError(
                f"{codec.name} cannot be exported as {format}: {measured}; "
                f"at most {100 * MAX_DIFFERING:g} % and {MAX_ERROR:g} are allowed"
            )
        config = description.config(codec, setting, format, axes, measured)
        (staged / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (staged / "README.md").write_text(description.readme(config), encoding="utf-8")
        with lock.locked(folder), EXPORT.replacing(folder) as new:
            for path in staged.iterdir():
                path.replace(new / path.name)
    return measured


def check(codec: Codec, folder: Path, format: str) -> LatentCodec:
    """Return the codec if it can be exported to the folder, else raise ValueError. Nothing is computed."""
    _check_format(format)
    _check_folder(folder)
    return _exportable(codec, format)


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise ValueError(errors.unknown("format", format, FORMATS))
    for package in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        if importlib.util.find_spec(package) is None:
            raise errors.missing(package, "export")


def _exportable(codec: Codec, format: str) -> LatentCodec:
    if (obstacle := codec.export_obstacle) is not None:
        raise ValueError(f"{codec.name} cannot be exported: {obstacle}")
    size = sum(p.numel() * p.element_size() for p in codec.parameters())
    if format == "onnx" and size > MAX_BYTES:
        raise ValueError(
            f"an ONNX file must have at most {MAX_BYTES} bytes of weights, {codec.name} has {size}; use torch.export"
        )
    return codec


def _check_folder(folder: Path) -> None:
    """Raise ValueError unless the folder is new, empty or an export. Completes one that a kill has cut short."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"an export must be a folder, {folder} is a file")
    if EXPORT.pending(folder):
        with lock.locked(folder):
            EXPORT.settle(folder)
    found = {path.name for path in folder.iterdir()} - {lock.NAME, *EXPORT.hidden}
    if stray := sorted(found - FILES):
        raise ValueError(f"{folder} holds {stray[0]}, which is not part of an export; choose another folder")
    if found and not _is_export(folder / "config.json"):
        raise ValueError(f"{folder} is neither empty nor an export; choose another folder")


def _is_export(config: Path) -> bool:
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("format") in FORMATS
    except (OSError, ValueError, AttributeError):
        return False
