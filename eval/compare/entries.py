"""The codecs of a comparison, by name, folder or glob."""

from __future__ import annotations

import glob
import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenloom import codecs
from tokenloom.codecs import checkpoint
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.models.diffusion import codec as diffusion_codec

from .run_labels import run_labels


@dataclass
class CodecEntry:
    """A codec and its label in the comparison.

    A codec that needs no training and takes any sample rate, such as `audio/opus`, `adapts`: it is rebuilt for each
    sample rate and number of channels of the data. Its settings are those for the first item, because they can depend
    on the sample rate, as those of MP3 do.
    """

    label: str
    codec: Codec
    adapts: bool = False
    variants: dict[tuple[int, int], Codec] = field(default_factory=dict)

    @property
    def modality(self) -> Modality:
        """Modality of the codec."""
        return self.codec.spec.modality

    @property
    def learned(self) -> bool:
        """Whether the codec has parameters."""
        return next(self.codec.parameters(), None) is not None

    def name_at(self, setting: Any) -> str:
        """Return the label, with the setting if the codec has one."""
        return self.label if setting is None else f"{self.label} at {setting}"

    def adopt(self, item: Item) -> None:
        """Take codec and settings from the first item. If the item does not fit, coding it fails later."""
        with suppress(ValueError):
            self.codec = self.codec_for(item)

    def codec_for(self, item: Item) -> Codec:
        """Return the codec for an item."""
        if not self.adapts:
            return self.codec
        key = (item.sample_rate, min(item.signal.shape[0], 2))
        if key not in self.variants:
            self.variants[key] = codecs.build(self.codec.name, sample_rate=key[0], channels=key[1])
        return self.variants[key]


def load_entries(names: Sequence[str | Mapping[str, Any]]) -> list[CodecEntry]:
    """Load the codecs of a comparison.

    Args:
        names: Registry names, shipped names, folders and globs of folders. Each can have a decoder behind it, as in
            `natural-fsq+diffusion`. A mapping is a codec with another project's weights:
            {name: image/taming, checkpoint: last.ckpt, config: model.yaml}.

    Returns:
        The entries in the order of the names.

    Raises:
        ValueError: If a name is unknown or is listed twice, or there is none.
        FileNotFoundError: If a glob matches no checkpoint.
    """
    if not names:
        raise ValueError("codecs is empty; name at least one, such as image/jpeg")
    foreign = {_label(name): name for name in names if isinstance(name, Mapping)}
    paths = [path for name in names for path in ([_label(name)] if isinstance(name, Mapping) else _expand(str(name)))]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"codec {twice[0]!r} is listed twice")
    parts = {path: None if path in foreign else diffusion_codec.split(path) for path in paths}
    plain = [path for path in paths if parts[path] is None]
    labels = dict(zip(plain, run_labels(plain), strict=True))
    # "+diffusion" means the decoder that is loaded or shipped: load it before another one of the same codec
    with_decoder = [path for path in paths if parts[path]]
    with_decoder.sort(key=lambda path: not diffusion_codec.is_default(parts[path][1]))
    entries = {path: CodecEntry(path, diffusion_codec.load(*parts[path])) for path in with_decoder}
    for path in plain:
        codec = codecs.load(foreign.get(path, path))
        parameters = set(inspect.signature(type(codec).__init__).parameters)
        adapts = path in codecs.names() and {"sample_rate", "channels"} <= parameters
        entries[path] = CodecEntry(labels[path], codec, adapts)
    return [entries[path] for path in paths]


def _label(entry: Mapping[str, Any]) -> str:
    """Return the label of a mapping: the codec's name and the file of its weights."""
    name, weights = str(entry.get("name", "?")), entry.get("checkpoint")
    return name if weights is None else f"{name} ({Path(str(weights)).name})"


def _expand(name: str) -> list[str]:
    """Return the checkpoints that a glob matches, 2 before 10; any other name as it is."""
    if parts := diffusion_codec.split(name):
        return [path + parts[1] for path in _expand(parts[0])]
    if not glob.has_magic(name) or Path(name).exists():
        return [name]
    found = [path for path in glob.glob(name) if any((Path(path) / config).is_file() for config in checkpoint.CONFIGS)]
    if not found:
        raise FileNotFoundError(f"codecs: {name!r} matches no folder with a {' or '.join(checkpoint.CONFIGS)}")
    return sorted(found, key=lambda path: [int(t) if t.isdecimal() else t for t in re.split(r"([0-9]+)", path)])
