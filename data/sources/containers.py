"""The sources `folder` and `tar`: files in a folder, or in tar shards of the webdataset layout."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import walk
from .files import Files, Ref, build_index
from .joined import Joined
from .source import Source, at_least, choice


def folder(
    path: str, *, modality: str | None = None, recursive: bool = True, limit: int | None = None,
    join: float | None = None, group: str | None = None, caption: str = "{caption}",
) -> Source:  # fmt: skip
    """Open the images, sounds and texts in a folder, sorted by path.

    A `.txt` file with the name of an image or sound is its caption, a `.json` file its metadata: `a.txt` or `a.png.txt`
    for `a.png`. Links are followed (see `walk.files`), and hidden files are left out.

    Args:
        path: The folder.
        modality: Keep only image, audio or text.
        recursive: Include subfolders.
        limit: Largest number of items.
        join: Join audio items into clips of exactly this many seconds (see `joined.Joined`).
        group: Metadata key; only items with the same value, such as the same "speaker", are joined.
        caption: Template of the captions, such as "{caption}, {style}", with keys of the metadata.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no item of the modality.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"data.path {str(path)!r} {what}")

    def files() -> Iterator[tuple[str, str, Ref]]:
        for file in walk.files(root, recursive):
            yield file.with_suffix("").as_posix(), file.suffix, Ref(str(root / file))

    return _source(Files("folder", build_index(files(), choice(modality)), caption), str(path), limit, join, group)


def tar(
    path: str | Sequence[str], *, modality: str | None = None, limit: int | None = None,
    join: float | None = None, group: str | None = None, caption: str = "{caption}",
) -> Source:  # fmt: skip
    """Open uncompressed tar shards in the webdataset layout, in the order of the archive.

    The key of a file is its name up to the first dot of the last path component. Files with one key form one item. If
    a key has several signals, such as `a.left.png`, each has its own caption (`a.left.txt`) or the common one.

    Args:
        path: A file, a glob, or a list of these.
        modality: As for `folder`, and so are the other arguments.

    Raises:
        FileNotFoundError: A shard does not exist.
        ValueError: A shard is damaged, or no item has the modality.
    """
    shards = [build_index(_members(shard), choice(modality)) for shard in _shards(path)]
    entries = [entry for shard in shards for entry in shard]
    if len({entry.key for entry in entries}) < len(entries):  # shards may number their items alike
        entries = [entry._replace(key=f"{n}/{entry.key}") for n, shard in enumerate(shards) for entry in shard]
    return _source(Files("tar", entries, caption), str(path), limit, join, group)


def _source(files: Files, path: str, limit: int | None, join: float | None, group: str | None) -> Source:
    if limit is not None:
        at_least("limit", limit, 1)
    if not files.entries:
        raise ValueError(f"data.path {path!r} holds no image, sound or text: .png, .jpg, .wav, .txt …")
    if join is None:
        if group is not None:
            raise ValueError(f"group {group!r} needs join")
        return Files(files.name, files.entries[:limit], files.caption)
    return Joined(files, join, group, limit)


def _shards(path: str | Sequence[str]) -> list[str]:
    shards = []
    for pattern in [path] if isinstance(path, str | Path) else path:
        found = [str(pattern)] if Path(pattern).exists() else _matches(Path(pattern))
        if not found:
            raise FileNotFoundError(f"data.path {str(pattern)!r} does not exist")
        shards += found
    if not shards:
        raise FileNotFoundError("data.path names no tar shard")
    return shards


def _matches(pattern: Path) -> list[str]:
    """Return the paths that match a glob. The brackets of a folder that exists are not part of the pattern."""
    folder = next(parent for parent in pattern.parents if parent.exists() or parent == parent.parent)
    literal = glob.escape(str(folder))
    return sorted(glob.glob(os.path.join(literal, pattern.relative_to(folder)), recursive=True))


def _members(shard: str) -> Iterator[tuple[str, str, Ref]]:
    """Yield (key, suffix, location) of each file in a shard, from one pass over its headers."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                directory, _, name = member.name.rpartition("/")
                first, dot, suffix = name.partition(".")
                if member.isreg() and not member.issparse() and not walk.is_hidden(member.name.split("/")):
                    key = f"{directory}/{first}" if directory else first
                    yield key, dot + suffix, Ref(shard, member.name, member.offset_data, member.size)
            # tarfile stops at a damaged header, too; at the true end are zeros or nothing
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged header at byte {archive.offset}")
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{shard} is not a readable, uncompressed tar shard: {error}") from error
