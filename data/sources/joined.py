"""Audio items joined without gaps into clips of one length."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from io import BytesIO
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from tokenloom.codecs.types import Modality

from .files import Entry, Files
from .source import BrokenItem, Item, Source, at_least, warn_broken


class Take(NamedTuple):
    """One item of the source and how many samples it adds."""

    index: int
    samples: int


class Clip(NamedTuple):
    """`samples` samples from `start` on, counted from the beginning of the first take."""

    key: str
    takes: tuple[Take, ...]
    start: int
    samples: int


class Joined(Source):
    """Clips of exactly `seconds` from the audio items of one group, in file order.

    files    a source of audio files, of one rate and channel count within each group
    seconds  length of a clip; what remains at a group's end is dropped
    group    meta key whose values separate the groups; all items of a value belong together,
             adjacent in the file or not. None: one group of everything
    limit    the first so many clips

    Unreadable items are left out of the joins; `items` counts them. Raises ValueError where a
    group has no full clip or mixes formats.
    """

    def __init__(self, files: Files, seconds: float, group: str | None = None, limit: int | None = None) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ValueError(f"join {seconds!r} is not a positive number of seconds")
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

    def __getitem__(self, i: int) -> Item:
        clip = self.clips[self._check(i)]
        items = []
        for take in clip.takes:
            items.append(self.files[take.index])
            if (got := items[-1].signal.shape[-1]) != take.samples:
                entry = self.files.entries[take.index]
                raise BrokenItem(f"{entry.signal}: has {got} samples, its header says {take.samples}")
        signal = torch.cat([item.signal for item in items], dim=-1)[:, clip.start : clip.start + clip.samples]
        caption = " ".join(item.caption for item in items if item.caption)
        meta = {"takes": [item.key for item in items]}
        if self.group is not None:
            meta[self.group] = items[0].meta[self.group]
        return Item(clip.key, Modality.AUDIO, signal.contiguous(), items[0].sample_rate, caption, meta)

    def items(self, strict: bool = False) -> Iterator[Item]:
        """As `Source.items`; takes whose header was already unreadable count too."""
        if strict and self.broken:
            raise BrokenItem(self.broken[0])
        yield from super().items(strict)
        self.skipped += len(self.broken)
        warn_broken(self.name, self.broken, len(self.files), "joined without")

    def _plan(self, seconds: float) -> list[Clip]:
        takes: dict[Any, list[Take]] = {}
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
            takes.setdefault(value, []).append(Take(i, samples))
        clips = []
        for value, run in takes.items():
            length = round(seconds * formats[value][0])
            clips += _cut(f"{self.name if self.group is None else value}", run, max(length, 1))
        return clips

    def _group(self, entry: Entry) -> str | int | float | bool | None:
        if self.group is None:
            return None
        meta = entry.read_meta()
        if self.group not in meta:
            known = ", ".join(meta) or "nothing"
            raise ValueError(f"{entry.signal} has no {self.group!r} in its meta, which has {known}")
        value = meta[self.group]
        if isinstance(value, list | dict):
            raise ValueError(f"{entry.signal}: {self.group!r} is a {type(value).__name__}, wanted a plain value")
        return value


def _cut(name: str, takes: list[Take], length: int) -> list[Clip]:
    """Clips of `length` samples from takes laid end to end."""
    ends = list(accumulate(take.samples for take in takes))
    clips = []
    for k in range(ends[-1] // length):
        start = k * length
        first, last = bisect_right(ends, start), bisect_left(ends, start + length)
        before = ends[first] - takes[first].samples
        clips.append(Clip(f"{name}-{k:04d}", tuple(takes[first : last + 1]), start - before, length))
    return clips


def _header(entry: Entry) -> tuple[int, int, int]:
    """(Hz, channels, samples) without decoding."""
    import soundfile

    try:
        info = soundfile.info(BytesIO(entry.signal.read()))
    except soundfile.SoundFileError as error:
        raise BrokenItem(f"{entry.signal}: {error}") from error
    return info.samplerate, info.channels, info.frames
