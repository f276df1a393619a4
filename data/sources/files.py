"""An index of items in files or tar members, which are decoded on access."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tokenloom.codecs.media.files import SUFFIXES
from tokenloom.codecs.types import Modality

from .source import BrokenItem, Item, Source, decode


class Ref(NamedTuple):
    """Location of bytes: a whole file (`member` is "") or a member of a tar shard."""

    path: str
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else self.path

    def read(self) -> bytes:
        """Read the bytes. Each call opens the file, so processes share nothing."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise BrokenItem(f"{self}: {error.strerror or error}") from error
        if self.size >= 0 and len(data) != self.size:
            raise BrokenItem(f"{self}: ends after {len(data)} of {self.size} bytes")
        return data


class FileEntry(NamedTuple):
    """One item of the index: its signal, caption and metadata."""

    key: str
    modality: Modality
    signal: Ref
    caption: Ref | None = None
    meta: Ref | None = None

    def read_caption(self) -> str:
        if self.caption is None:
            return ""
        try:
            return self.caption.read().decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise BrokenItem(f"{self.caption}: not UTF-8 at byte {error.start}") from error

    def read_meta(self) -> dict[str, Any]:
        if self.meta is None:
            return {}
        try:
            meta = json.loads(self.meta.read())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise BrokenItem(f"{self.meta}: not JSON: {error}") from error
        if not isinstance(meta, dict):
            raise BrokenItem(f"{self.meta}: must hold a mapping, got a {type(meta).__name__}")
        return meta


class Files(Source):
    """The items of an index of files."""

    def __init__(self, name: str, entries: Sequence[FileEntry]) -> None:
        self.name = name
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def candidates(self, modality: Modality) -> Sequence[int]:
        return [i for i, entry in enumerate(self.entries) if entry.modality is modality]

    def contents(self) -> Iterator[tuple[str, int]]:
        for entry in self.entries:
            yield entry.key, entry.signal.size if entry.signal.size >= 0 else os.path.getsize(entry.signal.path)

    def __getitem__(self, i: int) -> Item:
        entry = self.entries[self._check(i)]
        signal, rate = decode(entry.signal.read(), entry.modality, entry.signal)
        return Item(entry.key, entry.modality, signal, rate, entry.read_caption(), entry.read_meta())


def build_index(files: Iterable[tuple[str, str, Ref]], modality: Modality | None) -> list[FileEntry]:
    """Group files (key, suffix, location) into items, in order.

    A text with the key of an image or sound is its caption, unless `modality` is text. If a key has several
    signals, each is an item whose key includes the suffix.
    """
    groups: dict[str, dict[str, Ref]] = {}
    for key, suffix, ref in files:
        groups.setdefault(key, {})[suffix] = ref  # a later tar member replaces an earlier one of the same name
    entries = []
    for key, members in groups.items():
        typed = [(found, suffix, ref) for suffix, ref in members.items() if (found := _modality(suffix))]
        signals = [file for file in typed if file[0] in (Modality.IMAGE, Modality.AUDIO)]
        texts = [file for file in typed if file[0] is Modality.TEXT]
        caption = next((ref for _, suffix, ref in texts if signals and suffix.lower() == ".txt"), None)
        meta = next((ref for suffix, ref in members.items() if suffix.lower() == ".json"), None)
        if modality is Modality.TEXT or not signals:
            signals, caption = texts, None
        chosen = [file for file in signals if modality in (None, file[0])]
        for its_modality, suffix, ref in chosen:
            entries.append(FileEntry(key if len(chosen) == 1 else key + suffix, its_modality, ref, caption, meta))
    return entries


def _modality(suffix: str) -> Modality | None:
    last = PurePosixPath("x" + suffix.lower()).suffix  # a webdataset suffix may have several parts: .left.jpg
    return next((modality for modality, suffixes in SUFFIXES.items() if last in suffixes), None)
