"""Codecs of a comparison: loading by name, folder or glob, and labels."""

from __future__ import annotations

import glob
import hashlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tokenloom import codecs, devices
from tokenloom.codecs import checkpoint
from tokenloom.codecs.codec import Codec, build_known
from tokenloom.codecs.registry import is_reference
from tokenloom.codecs.restoring import label
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.models.diffusion import codec as diffusion_codec

CodecSource = str | Mapping[str, Any] | Codec
"""What names a codec of a comparison, or the codec itself."""
SWEEP = "multirun.yaml"
"""File of Hydra in the folder of a sweep."""
IGNORED = ("codec", "out", "resume", "stop_after", "imports", "hydra")
"""Overrides that are not part of a run's label."""


@dataclass
class CodecEntry:
    """A codec and its label in the comparison.

    An untrained codec for any sample rate, such as `audio/opus`, `adapts`: it is rebuilt for each sample rate and
    number of channels of the data. The settings can depend on the sample rate; those of the first item are used.
    """

    label: str
    codec: Codec
    source: str | Mapping[str, Any] | None = ""
    """What `load_entries` loaded it from; None for a codec that was given itself, which only this process has."""
    adapts: bool = False
    variants: dict[tuple[int, int], Codec] = field(default_factory=dict)

    @property
    def modality(self) -> Modality:
        return self.codec.spec.modality

    @property
    def learned(self) -> bool:
        """Whether the codec has parameters."""
        return next(self.codec.parameters(), None) is not None

    def name_at(self, setting: Any) -> str:
        """Return the label with the setting, if the codec has settings."""
        return self.label if setting is None else f"{self.label} at {setting}"

    def identity(self) -> str:
        """Return a hash of the codec with its decoder, and its sweep."""
        digest = hashlib.sha256(repr([self.codec.name, self.codec.settings.sweep]).encode() + self.codec.fingerprint)
        for name, value in sorted(self.codec.state_dict().items()):
            if isinstance(value, Tensor):
                data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(name.encode() + data.numpy().tobytes())
        return digest.hexdigest()[:16]

    def adapt(self, item: Item) -> None:
        """Adapt codec and settings to the first item. An item that does not fit fails later, when it is coded."""
        with suppress(ValueError):
            self.codec = self.codec_for(item)

    def codec_for(self, item: Item) -> Codec:
        if not self.adapts:
            return self.codec
        key = (item.sample_rate, min(item.signal.shape[0], 2))
        if key not in self.variants:
            self.variants[key] = build_known(self.codec.name, sample_rate=key[0], channels=key[1])
        return self.variants[key]


def load_entries(names: Sequence[CodecSource], device: str | torch.device = "auto") -> list[CodecEntry]:
    """Load the codecs of a comparison.

    Args:
        names: Registry names, shipped names, folders, globs of folders and classes of Python files
            (`my_codec.py:MyCodec`), each with an optional decoder, as in `natural-fsq+diffusion`. A mapping adds
            arguments, {name: my_codec.py:MyCodec, width: 64}, or the weights of another project,
            {name: image/taming, checkpoint: last.ckpt, config: model.yaml}. A `Codec` is taken as it is.
        device: Device of the learned codecs that are loaded. The other codecs compute on the CPU, and a `Codec` stays
            where it is.

    Raises:
        ValueError: If a name is unknown or listed twice, the list is empty, or this machine lacks the device.
        FileNotFoundError: If a glob matches no checkpoint.
    """
    place = devices.resolve(device)
    if not names:
        raise ValueError("codecs is empty; name at least one, such as image/jpeg")
    foreign = {label(name): name for name in names if isinstance(name, Mapping)}
    given = {codec.name: codec for codec in names if isinstance(codec, Codec)}
    paths = [path for name in names for path in _paths(name)]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"codec {twice[0]!r} is listed twice")
    parts = {path: None if path in foreign | given else diffusion_codec.split(path) for path in paths}
    plain = [path for path in paths if parts[path] is None]
    labels = dict(zip(plain, _run_labels(plain), strict=True))
    # "+diffusion" means the loaded or shipped decoder of a codec: load it before other decoders of the same codec
    with_decoder = [path for path in paths if parts[path]]
    with_decoder.sort(key=lambda path: not diffusion_codec.is_default(parts[path][1]))
    entries = {path: CodecEntry(path, diffusion_codec.load(*parts[path]), path) for path in with_decoder}
    for path in plain:
        if path in given:
            entries[path] = CodecEntry(path, given[path], None)
            continue
        source = foreign.get(path, path)
        codec = codecs.load(source)
        parameters = set(inspect.signature(type(codec).__init__).parameters)
        adapts = path in codecs.names() or (is_reference(path) and next(codec.parameters(), None) is None)
        entries[path] = CodecEntry(labels[path], codec, source, adapts and {"sample_rate", "channels"} <= parameters)
    for entry in entries.values():
        if entry.learned and entry.source is not None:
            entry.codec.to(place)
    return [entries[path] for path in paths]


def _paths(name: CodecSource) -> list[str]:
    """Return the labels of one element of a list of codecs: several for a glob, else one."""
    if isinstance(name, Codec):
        return [name.name]
    return [label(name)] if isinstance(name, Mapping) else _expand(str(name))


def _expand(name: str) -> list[str]:
    """Return the checkpoints that a glob matches, in natural order; any other name unchanged."""
    if parts := diffusion_codec.split(name):
        return [path + parts[1] for path in _expand(parts[0])]
    if not glob.has_magic(name) or is_reference(name) or Path(name).exists():
        return [name]
    folders = [
        path for path in glob.glob(name) if any((Path(path) / config).is_file() for config in checkpoint.CONFIGS)
    ]
    if not folders:
        raise FileNotFoundError(f"codecs: {name!r} matches no folder with a {' or '.join(checkpoint.CONFIGS)}")
    return sorted(folders, key=lambda path: [int(t) if t.isdecimal() else t for t in re.split(r"([0-9]+)", path)])


# -- labels of training runs -----------------------------------------------------------------------


def _run_labels(paths: list[str]) -> list[str]:
    """Return a label for each path: a description for a run of a sweep, else the path itself.

    A description has the codec, the settings that differ between runs of this codec, and the folder's name, as in
    `image/fsq widths=[8,16] (3)`. Runs with equal descriptions have their whole path instead of the folder's name.
    """
    folders = [path for path in paths if (Path(path).absolute().parent / SWEEP).is_file() and not is_reference(path)]
    runs = {path: _run_settings(Path(path)) for path in folders}
    described = {path: _describe_run(run, runs.values()) for path, run in runs.items()}
    short = {path: f"{text} ({Path(path).name})" for path, text in described.items()}
    names = list(short.values())
    long = {path: f"{text} ({path})" for path, text in described.items()}
    return [
        path if path not in runs else short[path] if names.count(short[path]) == 1 else long[path] for path in paths
    ]


def _describe_run(run: Mapping[str, str], runs: Iterable[Mapping[str, str]]) -> str:
    """Return the codec, and the settings that differ between its runs."""
    same_codec = [other for other in runs if other["name"] == run["name"]]
    differing = [key for key in run if len({other.get(key) for other in same_codec}) > 1]
    return " ".join([run["name"], *(f"{key}={run[key]}" for key in differing)])


def _run_settings(folder: Path) -> dict[str, str]:
    """Return the name and arguments of a run's codec, and the other overrides of its command."""
    codec = checkpoint.read_config(folder).get("codec")
    settings = {key: _compact(value) for key, value in codec.items()} if isinstance(codec, dict) else {}
    settings.setdefault("name", folder.name)
    overrides = folder / ".hydra" / "overrides.yaml"
    given = yaml.safe_load(overrides.read_text(encoding="utf-8")) if overrides.is_file() else []
    for override in given or []:
        key, _, value = str(override).lstrip("+~").partition("=")
        if key.split(".")[0] not in IGNORED:
            settings[key] = value
    return settings


def _compact(value: Any) -> str:
    return f"[{','.join(map(_compact, value))}]" if isinstance(value, list) else str(value)
