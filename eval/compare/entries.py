"""Who takes part: codecs by name, folder or glob, fitted to the data where they can be."""

from __future__ import annotations

import glob
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tokenloom import codecs
from tokenloom.codecs import checkpoint
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Modality
from tokenloom.data import BrokenItem, Item, Source
from tokenloom.models.diffusion import codec as diffusion_codec

from . import sweeps


@dataclass
class Contestant:
    """A codec under the name it was called by.

    A codec that needs no training and takes any sample rate (`audio/opus`) is built anew for
    each rate and channel count of the data; all others are what they are. Its settings are those
    for the first item: what they are can depend on the rate (of MP3, for one).
    """

    label: str
    codec: Codec
    adapts: bool = False
    variants: dict[tuple[int, int], Codec] = field(default_factory=dict)

    @property
    def modality(self) -> Modality:
        return self.codec.spec.modality

    @property
    def learned(self) -> bool:
        return next(self.codec.parameters(), None) is not None

    def meet(self, item: Item) -> None:
        """Take `codec`, and with it the settings, from the first item; an unfit one is left to fail later."""
        with suppress(ValueError):
            self.codec = self.fitted(item)

    def fitted(self, item: Item) -> Codec:
        """The codec for this item."""
        if not self.adapts:
            return self.codec
        key = (item.sample_rate, min(item.signal.shape[0], 2))
        if key not in self.variants:
            self.variants[key] = codecs.build(self.codec.name, sample_rate=key[0], channels=key[1])
        return self.variants[key]


def field_of(names: Sequence[str | Mapping[str, Any]]) -> list[Contestant]:
    """Names, folders and globs of folders, each also with a decoder behind it (CODEC+DECODER) → contestants, in order.

    A mapping stands for another project's weights: {name: image/taming, checkpoint: last.ckpt, config: model.yaml}.
    Raises ValueError or FileNotFoundError where a name means nothing or comes twice.
    """
    if not names:
        raise ValueError("codecs is empty; name at least one, such as image/jpeg")
    built = {_label(name): name for name in names if isinstance(name, Mapping)}
    paths = [path for name in names for path in ([_label(name)] if isinstance(name, Mapping) else _expand(str(name)))]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"codec {twice[0]!r} is listed twice")
    parts = {path: None if path in built else diffusion_codec.split(path) for path in paths}
    alone = [path for path in paths if parts[path] is None]
    labels = dict(zip(alone, sweeps.labels(alone), strict=True))
    # "+diffusion" first: once another decoder of the same codec is loaded, that one would be it
    behind = sorted(
        (path for path in paths if parts[path]), key=lambda path: not diffusion_codec.is_default(parts[path][1])
    )
    made = {path: Contestant(path, diffusion_codec.load(*parts[path])) for path in behind}
    contestants = []
    for path in paths:
        if path in made:
            contestants.append(made[path])
            continue
        codec = codecs.load(built.get(path, path))
        known = path in codecs.names()
        takes = inspect.signature(type(codec).__init__).parameters
        contestants.append(Contestant(labels[path], codec, known and {"sample_rate", "channels"} <= set(takes)))
    return contestants


def _label(entry: Mapping[str, Any]) -> str:
    """What a mapping is called in tables: the codec's name, and whose weights it has."""
    name, checkpoint = str(entry.get("name", "?")), entry.get("checkpoint")
    return name if checkpoint is None else f"{name} ({Path(str(checkpoint)).name})"


def _expand(name: str) -> list[str]:
    """A glob as the checkpoints among its hits, 2 before 10; any other name as itself."""
    if parts := diffusion_codec.split(name):
        return [path + parts[1] for path in _expand(parts[0])]
    if not glob.has_magic(name) or Path(name).exists():
        return [name]
    found = [path for path in glob.glob(name) if any((Path(path) / config).is_file() for config in checkpoint.CONFIGS)]
    if not found:
        raise FileNotFoundError(f"codecs: {name!r} matches no folder with a {' or '.join(checkpoint.CONFIGS)}")
    return sorted(found, key=lambda path: [int(t) if t.isdecimal() else t for t in re.split(r"([0-9]+)", path)])


class Draw:
    """The items to evaluate: all of a source in order, or `count` of each modality drawn with `seed`.

    Broken items are left out, counted in `skipped` and told of once; with `strict` the first is raised.
    """

    def __init__(self, source: Source, modalities: set[Modality], count: int | None, seed: int, strict: bool) -> None:
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"items {count!r} is not an integer of at least 1")
        self.source, self.count, self.strict, self.skipped = source, count, strict, 0
        self.left = {modality: len(source) if count is None else count for modality in modalities}
        self.order = range(len(source))
        if count is not None and count < len(source):
            self.order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()

    def __len__(self) -> int:
        """How many items at most."""
        return min(len(self.source), sum(self.left.values()))

    def __iter__(self) -> Iterator[Item]:
        problems = []
        for i in self.order:
            if not any(self.left.values()):
                break
            try:
                item = self.source[i]
            except BrokenItem as problem:
                if self.strict:
                    raise
                problems.append(str(problem))
                self.skipped += 1
                continue
            if self.left.get(item.modality, 0):
                self.left[item.modality] -= 1
                yield item
        if problems:
            warnings.warn(f"left out {len(problems)} broken items, first: {problems[0]}", stacklevel=2)
