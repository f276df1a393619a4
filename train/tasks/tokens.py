"""Signals as codes, computed once per (data, codec) and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenloom.codecs import Modality, media
from tokenloom.codecs.types import Codes
from tokenloom.data import Source, variants
from tokenloom.models.vocabulary.vocabulary import Channel

CHUNK = 32
"""Signals of one size that are encoded at once."""


class Table:
    """The codes of every copy of every item of a source: `table[item, copy]`, as a batch of one."""

    def __init__(self, tensors: dict[str, Tensor], copies: int) -> None:
        self.tensors, self.copies = tensors, copies
        self.ends = tensors["grids"].prod(1).cumsum(0)

    def __getitem__(self, where: tuple[int, int]) -> Codes:
        item, copy = where
        if not 0 <= copy < self.copies:
            raise IndexError(f"copy {copy} of a table with {self.copies}")
        row = item * self.copies + copy
        grid, end = self.tensors["grids"][row].tolist(), int(self.ends[row])
        count = int(np.prod(grid))
        length = self.tensors["lengths"][row : row + 1]
        indices = self.tensors["indices"][end - count : end].long().reshape(1, *grid)
        return Codes(indices, self.tensors["sizes"][row : row + 1], None if length.item() < 0 else length)


def table(source: Source, node: Mapping[str, Any], channel: Channel, copies: int, folder: Path) -> Table:
    """The codes of `source` (opened from `node`) by one channel, from the cache in `folder` or computed into it."""
    path = folder / f"{_key(source, node, channel, copies)}.safetensors"
    tensors = _read(path, len(source) * copies)
    if tensors is None:
        _write(tensors := _encode(source, channel, copies), path)
    return Table(tensors, copies)


def _key(source: Source, node: Mapping[str, Any], channel: Channel, copies: int) -> str:
    """A name that changes with the data, the codec's weights, its setting, and what a copy is."""
    files = {}
    if "path" in node:
        root = Path(str(node["path"]))
        found = sorted(root.rglob("*")) if root.is_dir() else sorted(root.parent.glob(root.name))
        files = {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in found if p.is_file()}
    copying = [variants.SHIFT, variants.SCALE, variants.SPEED, variants.GAIN_DB]
    said = [dict(node), len(source), files, channel.codec.fingerprint.hex(), str(channel.setting), copies, copying]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    return f"{source.name}-{channel.name.replace('/', '-')}-{digest[:16]}"


def _encode(source: Source, channel: Channel, copies: int) -> dict[str, Tensor]:
    from rich.console import Console
    from rich.progress import track

    rows: dict[str, list[Tensor]] = {"indices": [], "grids": [], "sizes": [], "lengths": []}
    signals = _signals(source, channel, copies)
    chunks = -(-len(source) * copies // CHUNK)
    says = f"{source.name} → {channel.name}"
    for _ in track(range(chunks), says, console=Console(stderr=True), total=chunks):
        chunk = list(islice(signals, CHUNK))
        alike = len({x.shape for x in chunk}) == 1
        coded = [channel.encode(torch.stack(chunk))] if alike else [channel.encode(x[None]) for x in chunk]
        for one in (codes[i] for codes in coded for i in range(len(codes))):
            length = -1 if one.lengths is None else int(one.lengths)
            indices = one.indices[0] if length < 0 else one.indices[0, :, :length]
            rows["indices"].append(indices.flatten().to(torch.int32))
            rows["grids"].append(torch.tensor(indices.shape)[None])
            rows["sizes"].append(one.sizes)
            rows["lengths"].append(torch.tensor([length]))
    return {name: torch.cat(values) for name, values in rows.items()}


def _signals(source: Source, channel: Channel, copies: int) -> Iterator[Tensor]:
    spec = channel.codec.spec
    for item in source.items(strict=True):
        if item.modality is not spec.modality:
            raise ValueError(f"{item.key} is {item.modality}, {channel.name} is for {spec.modality}")
        for copy in range(copies):
            if spec.modality is Modality.IMAGE:
                yield variants.image(item.signal, copy)
            else:
                x = media.convert(item.signal, item.sample_rate, spec.sample_rate, spec.channels)
                yield variants.audio(x, spec.sample_rate, copy)


def _read(path: Path, rows: int) -> dict[str, Tensor] | None:
    """The table in a file; None where there is none, and, with a warning, where it is damaged."""
    from safetensors.torch import load_file

    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        lengths = {name: len(tensors[name]) for name in ("grids", "sizes", "lengths")}
    except Exception as error:  # safetensors raises its own untyped error on damaged files
        lengths = str(error).splitlines()[0]
    if lengths == dict.fromkeys(("grids", "sizes", "lengths"), rows):
        return tensors
    warnings.warn(f"{path} is damaged and computed again: {lengths}", stacklevel=4)
    return None


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
    temporary.replace(path)
