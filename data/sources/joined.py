"""Audio items joined without gaps into clips of one length."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from tokenloom.codecs.media.audio import AudioHeader, read_header
from tokenloom.codecs.types import Modality

from .files import FileEntry, Files
from .source import BrokenItem, Item, Source, at_least, warn_broken


class Segment(NamedTuple):
    """One item of the source and its number of samples."""

    index: int
    samples: int


class Clip(NamedTuple):
    """Part of the concatenated segments: `samples` samples from `start` on."""

    key: str
    segments: tuple[Segment, ...]
    start: int
    samples: int


class Joined(Source):
    """Clips of exactly `seconds` from the audio items of one group, in file order.

    Unreadable items are left out of the clips and counted by `items`.

    Args:
        files: Audio files. Within a group all have the same sample rate and number of channels.
        seconds: Length of a clip. The rest at the end of a group is dropped.
        group: Metadata key. Items with the same value form a group, adjacent or not. None: all items are one group.
        limit: Largest number of clips.

    Raises:
        ValueError: There is not enough audio for one clip, or a group mixes formats.
    """

    modality = Modality.AUDIO

    def __init__(self, files: Files, seconds: float, group: str | None = None, limit: int | None = None) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ValueError(f"join must be a positive number of seconds, got {seconds!r}")
        if limit is not None:
            at_least("limit", limit, 1)
        self.name, self.files, self.group = files.name, files, group
        self.broken: list[str] = []
        self.clips = self._plan(float(seconds))[:limit]
        if not self.clips:
            why = self.broken[0] if self.broken else "there is too little of it"
            raise ValueError(f"{self.name}: no audio to join into {seconds:g} s clips: {why}")

    def __len__(self) -> int:
        return len(self.clips)

    def contents(self) -> Iterator[tuple[str, int]]:
        return self.files.contents()

    def __getitem__(self, i: int) -> Item:
        clip = self.clips[self._check(i)]
        items = []
        for segment in clip.segments:
            items.append(self.files[segment.index])
            if (got := items[-1].signal.shape[-1]) != segment.samples:
                entry = self.files.entries[segment.index]
                raise BrokenItem(f"{entry.signal}: has {got} samples, its header says {segment.samples}")
        signal = torch.cat([item.signal for item in items], dim=-1)[:, clip.start : clip.start + clip.samples]
        caption = " ".join(item.caption for item in items if item.caption)
        meta = {"takes": [item.key for item in items]}
        if self.group is not None:
            meta[self.group] = items[0].meta[self.group]
        told = tuple(notice for item in items for notice in item.notices)
        return Item(clip.key, Modality.AUDIO, signal.contiguous(), items[0].sample_rate, caption, meta, told)

    def items(self, strict: bool = False) -> Iterator[Item]:
        """Iterate as `Source.items` does. Files with an unreadable header count as broken, too."""
        if strict and self.broken:
            raise BrokenItem(self.broken[0])
        yield from super().items(strict)
        self.skipped += len(self.broken)
        warn_broken(self.name, self.broken, len(self.files), "joined without")

    def _plan(self, seconds: float) -> list[Clip]:
        segments: dict[Any, list[Segment]] = {}
        formats: dict[Any, tuple[int, int]] = {}
        for i, entry in enumerate(self.files.entries):
            if entry.modality is not Modality.AUDIO:
                continue
            try:
                value = self._group(entry)
                rate, channels, samples = _header(entry)
            except BrokenItem as problem:
                self.broken.append(str(problem))
                continue
            known = formats.setdefault(value, (rate, channels))
            if known != (rate, channels):
                raise ValueError(
                    f"{entry.signal} has {rate} Hz and {channels} channels, "
                    f"the others to join it with {known[0]} Hz and {known[1]} channels"
                )
            segments.setdefault(value, []).append(Segment(i, samples))
        clips = []
        for value, members in segments.items():
            length = round(seconds * formats[value][0])
            clips += _cut(f"{self.name if self.group is None else value}", members, max(length, 1))
        return clips

    def _group(self, entry: FileEntry) -> str | int | float | bool | None:
        if self.group is None:
            return None
        meta = entry.read_meta()
        if self.group not in meta:
            known = ", ".join(meta) or "nothing"
            raise ValueError(f"{entry.signal} has no {self.group!r} in its metadata, only {known}")
        value = meta[self.group]
        if isinstance(value, list | dict):
            raise ValueError(f"{entry.signal}: {self.group!r} must be a plain value, got a {type(value).__name__}")
        return value


def _cut(name: str, segments: list[Segment], length: int) -> list[Clip]:
    """Concatenate segments and cut them into clips of `length` samples."""
    ends = list(accumulate(segment.samples for segment in segments))
    clips = []
    for k in range(ends[-1] // length):
        start = k * length
        first, last = bisect_right(ends, start), bisect_left(ends, start + length)
        before = ends[first] - segments[first].samples
        clips.append(Clip(f"{name}-{k:04d}", tuple(segments[first : last + 1]), start - before, length))
    return clips


def _header(entry: FileEntry) -> AudioHeader:
    try:
        return read_header(entry.signal.read())
    except BrokenItem:
        raise
    except ValueError as error:
        raise BrokenItem(f"{entry.signal}: {error}") from error
