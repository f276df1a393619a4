"""An index of items in files or tar members, which are decoded on access."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tokenloom.codecs.media import Picture, images, notices, pieces
from tokenloom.codecs.media.files import SUFFIXES
from tokenloom.codecs.media.sources import FileSection
from tokenloom.codecs.media.text import decode_caption, decode_text
from tokenloom.codecs.types import Modality
from tokenloom.errors import printable

from .source import BrokenItem, Item, Source, decode

FIELD = re.compile(r"\{(\w+)\}")
"""A key of the metadata in the template of a caption."""


class Ref(NamedTuple):
    """Location of bytes: a whole file (`member` is "") or a member of a tar shard."""

    path: str
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return printable(f"{self.path}:{self.member}" if self.member else self.path)

    def source(self) -> Path | FileSection:
        """Return the bytes as a source of `codecs.read`, which reads them where it needs them."""
        return Path(self.path) if self.size < 0 else FileSection(self.path, self.offset, self.size, str(self))

    def read(self) -> bytes:
        """Read the bytes. Each call opens the file, so processes share nothing."""
        try:
            with open(self.path, "rb") as file:
                if (left := os.fstat(file.fileno()).st_size - self.offset) < self.size:
                    raise BrokenItem(f"{self}: ends after {max(0, left)} of {self.size} bytes")
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise BrokenItem(f"{self}: {error.strerror or error}") from error
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
            return decode_caption(self.caption.read())
        except BrokenItem:
            raise
        except ValueError as error:
            raise BrokenItem(f"{self.caption} cannot be read as a caption: {error}") from error

    def read_meta(self) -> dict[str, Any]:
        if self.meta is None:
            return {}
        try:
            meta = json.loads(decode_text(self.meta.read()))
        except BrokenItem:
            raise
        except (ValueError, RecursionError) as error:
            raise BrokenItem(f"{self.meta}: not JSON: {error}") from error
        if not isinstance(meta, dict):
            raise BrokenItem(f"{self.meta}: must hold a mapping, got a {type(meta).__name__}")
        return meta


class Files(Source):
    """The items of an index of files.

    Args:
        name: Name of the source.
        entries: The index.
        caption: Template of the captions, such as "{caption}, {style}", with keys of the metadata.
    """

    def __init__(self, name: str, entries: Sequence[FileEntry], caption: str = "{caption}") -> None:
        self.name, self.entries, self.caption = name, entries, caption

    def __len__(self) -> int:
        return len(self.entries)

    def candidates(self, modality: Modality) -> Sequence[int]:
        return [i for i, entry in enumerate(self.entries) if entry.modality is modality]

    def contents(self) -> Iterator[tuple[str, int]]:
        for entry in self.entries:
            yield entry.key, entry.signal.size if entry.signal.size >= 0 else os.path.getsize(entry.signal.path)

    def captions(self) -> Iterator[str]:
        for entry in self.entries:
            with suppress(BrokenItem):
                yield self._describe(entry)[0]

    def __getitem__(self, i: int) -> Item:
        entry = self.entries[self._check(i)]
        signal, rate, told = decode(entry.signal.read(), entry.modality, entry.signal)
        return Item(entry.key, entry.modality, signal, rate, *self._describe(entry), told)

    def large(self, i: int) -> Item | None:
        entry = self.entries[self._check(i)]
        where = entry.signal.source()
        try:
            with notices.collect() as told:
                if entry.modality is Modality.IMAGE and images.is_large(where):
                    signal: Any = Picture(where)
                elif entry.modality is Modality.AUDIO and pieces.is_long(where):
                    signal = pieces.Recording(where)
                else:
                    return None
        except (ValueError, OSError):  # reading it tells what is wrong
            return None
        return Item(entry.key, entry.modality, signal, None, *self._describe(entry), tuple(told))

    def _describe(self, entry: FileEntry) -> tuple[str, dict[str, Any]]:
        """Return the caption and the metadata of an item."""
        meta = entry.read_meta()
        known = {**meta, "caption": entry.read_caption()}
        if missing := [key for key in FIELD.findall(self.caption) if key not in known]:
            raise BrokenItem(f"{entry.signal}: its metadata has no {missing[0]!r}, which data.caption names")
        return FIELD.sub(lambda field: str(known[field[1]]), self.caption), meta


def build_index(files: Iterable[tuple[str, str, Ref]], modality: Modality | None) -> list[FileEntry]:
    """Group files (key, suffix, location) into items, in order.

    The caption of an image or sound is the first that exists of three texts, unless `modality` is text: `a.left.txt`,
    `a.left.png.txt` and `a.txt` for `a.left.png` of key `a`. Metadata is found alike. If a key has several signals,
    each is an item whose key includes the suffix.
    """
    groups: dict[str, dict[str, Ref]] = {}
    names: dict[str, Ref] = {}
    for key, suffix, ref in files:
        groups.setdefault(key, {})[suffix] = ref  # a later tar member replaces an earlier one of the same name
        names[_stem(key + suffix) + PurePosixPath("x" + suffix).suffix.lower()] = ref
    used: set[Ref] = set()

    def companion(key: str, suffix: str, kind: str) -> Ref | None:
        name = key + suffix
        ref = next((names[n] for n in (_stem(name) + kind, name + kind, key + kind) if n in names), None)
        used.add(ref) if ref else None
        return ref

    entries = []
    for key, members in groups.items():
        typed = [(found, suffix, ref) for suffix, ref in members.items() if (found := _modality(suffix))]
        signals = [file for file in typed if file[0] in (Modality.IMAGE, Modality.AUDIO)]
        texts = modality is Modality.TEXT or not signals
        chosen = [file for file in (typed if texts else signals) if modality in (None, file[0])]
        for its_modality, suffix, ref in chosen:
            caption = None if its_modality is Modality.TEXT else companion(key, suffix, ".txt")
            meta = companion(key, suffix, ".json")
            name = key if len(chosen) == 1 else key + suffix
            entries.append(FileEntry(printable(name), its_modality, ref, caption, meta))
    return [entry for entry in entries if modality is Modality.TEXT or entry.signal not in used]


def _stem(name: str) -> str:
    """Return a name without its last suffix."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _modality(suffix: str) -> Modality | None:
    last = PurePosixPath("x" + suffix.lower()).suffix  # a webdataset suffix may have several parts: .left.jpg
    return next((modality for modality, suffixes in SUFFIXES.items() if last in suffixes), None)
