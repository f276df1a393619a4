"""Packs: test and training data of omni-small, emoji with skin tones and spoken digits, in tar files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tokenloom.data import Item, open_source
from tokenloom.data.documents.emoji import TONES, split_tone


@dataclass(frozen=True)
class Pack:
    """Captioned items of one modality, in memory."""

    name: str
    items: list[Item]

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def captions(self) -> list[str]:
        return [item.caption for item in self.items]

    @cached_property
    def signals(self) -> list[Tensor]:
        return [item.signal for item in self.items]

    @cached_property
    def index(self) -> dict[str, int]:
        """Caption → number of the first item with it."""
        return {caption: i for i, caption in reversed(list(enumerate(self.captions)))}

    @cached_property
    def tones(self) -> dict[tuple[str, str | None], int]:
        """(figure, tone or None) → number of the item, for captions with at most one tone."""
        return {known: i for i, caption in enumerate(self.captions) if (known := split_tone(caption))}


class Missing(ValueError):
    """A measurement needs a pack or a channel that is missing."""


class PackFolder:
    """Packs of a folder, read at first use. Access to a missing pack raises Missing."""

    NAMES = ("emoji64-train", "emoji64-test", "spoken_digits-train", "spoken_digits-test")
    CAPTIONS: ClassVar = {"styles64-train": "{caption}, {style}", "styles64-test": "{caption}, {style}"}
    """Templates of the captions of further packs."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._read: dict[str, Pack] = {}
        if self.folder is not None and not self.folder.is_dir():
            raise FileNotFoundError(
                f"packs must be a folder with {', '.join(self.NAMES)} as .tar, {str(folder)!r} is not a folder"
            )

    def __getitem__(self, name: str) -> Pack:
        if name not in self._read:
            if self.folder is None:
                raise Missing(f"needs the pack {name}.tar: give its folder as packs=FOLDER")
            path = self.folder / f"{name}.tar"
            if not path.is_file():
                raise Missing(f"needs the pack {name}.tar, which is not in {self.folder}")
            options = {"caption": self.CAPTIONS[name]} if name in self.CAPTIONS else {}
            self._read[name] = Pack(name, list(open_source("tar", path=str(path), **options).items()))
        return self._read[name]


def draw(total: int, count: int | None, seed: int) -> list[int]:
    """Draw at most `count` different numbers below `total`, ascending; None: all numbers."""
    if count is None or count >= total:
        return list(range(total))
    return sorted(torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].tolist())


def source_of(target: str, pack: Pack) -> int | None:
    """Return the item of a pack with the figure of a caption in the nearest other tone; None without one."""
    parts = split_tone(target)
    if parts is None or parts[1] is None:
        return None
    figure, place = parts[0], TONES.index(parts[1])
    near = sorted(TONES, key=lambda t: abs(TONES.index(t) - place))
    return next((pack.tones[figure, t] for t in near[1:] if (figure, t) in pack.tones), None)


def parallels(pack: Pack, test: Pack, first: str = "light", second: str = "dark") -> list[tuple[str, int, int]]:
    """Return (figure, item of its first tone in `pack`, item of its second tone in `test`) for figures with both."""
    return [
        (figure, pack.tones[figure, first], i)
        for (figure, t), i in test.tones.items()
        if t == second and (figure, first) in pack.tones
    ]
