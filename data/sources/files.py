"""Signals from files: a folder, or tar shards in the webdataset layout, indexed by offset."""

from __future__ import annotations

import glob
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality

from .source import BrokenItem, Item, Source, at_least, choice, decode

_SUFFIXES = {
    Modality.IMAGE: media.IMAGE_SUFFIXES,
    Modality.AUDIO: media.AUDIO_SUFFIXES,
    Modality.TEXT: media.TEXT_SUFFIXES,
}


class Ref(NamedTuple):
    """Where bytes lie: a whole file (`member` is "") or a member of a tar shard."""

    path: str
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else self.path

    def read(self) -> bytes:
        """The bytes. The file is opened per call: nothing is shared between processes."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise BrokenItem(f"{self}: {error.strerror or error}") from error
        if self.size >= 0 and len(data) != self.size:
            raise BrokenItem(f"{self}: ends after {len(data)} of {self.size} bytes")
        return data


class Entry(NamedTuple):
    """One item of the index: its signal, and the files beside it."""

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
            raise BrokenItem(f"{self.caption}: no UTF-8 at byte {error.start}") from error

    def read_meta(self) -> dict[str, Any]:
        if self.meta is None:
            return {}
        try:
            meta = json.loads(self.meta.read())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise BrokenItem(f"{self.meta}: no JSON: {error}") from error
        if not isinstance(meta, dict):
            raise BrokenItem(f"{self.meta}: holds a {type(meta).__name__}, wanted a mapping")
        return meta


class Files(Source):
    """Items of an index of files, decoded on access."""

    def __init__(self, name: str, entries: Sequence[Entry]) -> None:
        self.name = name
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Item:
        entry = self.entries[self._check(i)]
        signal, rate = decode(entry.signal.read(), entry.modality, entry.signal)
        return Item(entry.key, entry.modality, signal, rate, entry.read_caption(), entry.read_meta())


def folder(
    path: str,
    *,
    modality: str | None = None,
    recursive: bool = True,
    limit: int | None = None,
    join: float | None = None,
    group: str | None = None,
) -> Source:
    """Pictures, sound and text under a folder, sorted by path.

    modality    only image, audio or text
    recursive   sub-folders too
    limit       the first so many items
    join        seconds: audio items become clips of exactly this length (see `joined.Joined`)
    group       the meta key that joining stays within, such as "speaker"

    A `.txt` beside a picture or sound of the same stem is its caption, a `.json` its meta.
    Raises FileNotFoundError without the folder, ValueError where nothing in it fits.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"data.path {str(path)!r} {what}")

    def files() -> Iterator[tuple[str, str, Ref]]:
        for file in sorted(root.rglob("*") if recursive else root.glob("*")):
            relative = file.relative_to(root)
            if file.is_file() and not any(part.startswith(".") for part in relative.parts):
                yield relative.with_suffix("").as_posix(), relative.suffix, Ref(str(file))

    return _source(Files("folder", _index(files(), choice(modality))), str(path), limit, join, group)


def tar(
    path: str | Sequence[str],
    *,
    modality: str | None = None,
    limit: int | None = None,
    join: float | None = None,
    group: str | None = None,
) -> Source:
    """Uncompressed tar shards in the webdataset layout, in the order of the archive.

    path   a file, a glob, or a list of these; for the rest see `folder`

    The key of a file is its name up to the first dot of its last part; files of one key belong
    together. Raises FileNotFoundError without a shard, ValueError for a damaged one.
    """
    shards = [_index(_members(shard), choice(modality)) for shard in _shards(path)]
    entries = [entry for shard in shards for entry in shard]
    if len({entry.key for entry in entries}) < len(entries):  # shards may number their items alike
        entries = [entry._replace(key=f"{n}/{entry.key}") for n, shard in enumerate(shards) for entry in shard]
    return _source(Files("tar", entries), str(path), limit, join, group)


def _source(files: Files, path: str, limit: int | None, join: float | None, group: str | None) -> Source:
    if limit is not None:
        at_least("limit", limit, 1)
    if not files.entries:
        raise ValueError(f"data.path {path!r} holds nothing to read; wanted {', '.join(sum(_SUFFIXES.values(), ()))}")
    if join is None:
        if group is not None:
            raise ValueError(f"group {group!r} has no meaning without join")
        return Files(files.name, files.entries[:limit])
    from .joined import Joined

    return Joined(files, join, group, limit)


def _index(files: Iterable[tuple[str, str, Ref]], modality: Modality | None) -> list[Entry]:
    """Files as (key, suffix, where) → items, in order.

    Text beside a picture or sound of the same key is that item's caption, unless text is all
    that is wanted. Where a key has several signals, each is an item, told apart by its suffix.
    """
    groups: dict[str, dict[str, Ref]] = {}
    for key, suffix, ref in files:
        groups.setdefault(key, {})[suffix] = ref  # of two tar members of one name, the later one counts
    entries = []
    for key, members in groups.items():
        kinds = [(_modality(suffix), suffix, ref) for suffix, ref in members.items()]
        signals = [kind for kind in kinds if kind[0] in (Modality.IMAGE, Modality.AUDIO)]
        texts = [kind for kind in kinds if kind[0] is Modality.TEXT]
        caption = next((ref for _, suffix, ref in texts if signals and suffix.lower() == ".txt"), None)
        meta = next((ref for suffix, ref in members.items() if suffix.lower() == ".json"), None)
        if modality is Modality.TEXT or not signals:
            signals, caption = texts, None
        wanted = [kind for kind in signals if modality in (None, kind[0])]
        for kind, suffix, ref in wanted:
            entries.append(Entry(key if len(wanted) == 1 else key + suffix, kind, ref, caption, meta))
    return entries


def _modality(suffix: str) -> Modality | None:
    last = PurePosixPath("x" + suffix.lower()).suffix  # a webdataset suffix may have several parts: .left.jpg
    return next((kind for kind, suffixes in _SUFFIXES.items() if last in suffixes), None)


def _shards(path: str | Sequence[str]) -> list[str]:
    shards = []
    for pattern in [path] if isinstance(path, str | Path) else path:
        found = [str(pattern)] if Path(pattern).exists() else sorted(glob.glob(str(pattern), recursive=True))
        if not found:
            raise FileNotFoundError(f"data.path {str(pattern)!r} does not exist")
        shards += found
    if not shards:
        raise FileNotFoundError("data.path names no tar shard")
    return shards


def _members(shard: str) -> Iterator[tuple[str, str, Ref]]:
    """(key, suffix, where) of each file in a shard, by one pass over its headers."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                directory, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if member.isreg() and not member.issparse() and stem:
                    key = f"{directory}/{stem}" if directory else stem
                    yield key, dot + suffix, Ref(shard, member.name, member.offset_data, member.size)
            # tarfile takes a damaged header for the end of the archive; the end is zeros or nothing
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged header at byte {archive.offset}")
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{shard} is no readable tar shard (uncompressed): {error}") from error
