"""The files of a bridge next to its tokenizer: tokenloom_bridge.json, and codecs that do not ship.

    {"version": 1, "first": 50257, "longest": 4096,
     "channels": [{"name", "codec", "setting", "pattern", "fingerprint"}]}

`first` is the id of the first merged token. `codec` is a shipped or registered name, or null if the codec is in a
folder with the channel's name. Nothing in the file is called, imported or downloaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenloom import codecs, errors, files
from tokenloom.codecs import Codec, checkpoint
from tokenloom.codecs.validate import require_integer

from .. import dependencies
from ..vocabulary import Channel, Vocabulary
from ..vocabulary.channel import setting_from_plain, setting_to_plain

FILE = "tokenloom_bridge.json"
VERSION = 1
KEYS = {"name": str, "codec": str | None, "setting": Any, "pattern": str, "fingerprint": str}


def check_name(name: str) -> None:
    """Raise ValueError unless the name of a channel can stand in tokens and name a folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"a channel name must have only letters, digits, '_', '.' and '-', got {name!r}")


def save(folder: Path, vocabulary: Vocabulary, first: int, tokenizer: Mapping[str, bytes]) -> None:
    """Write the codecs that do not ship, then the files of the tokenizer and the description of a bridge."""
    entries = []
    for name, channel in vocabulary.channels.items():
        source = _source(channel.codec)
        if source is None:
            codecs.save(channel.codec, folder / name)
        entries.append({
            "name": name, "codec": source, "pattern": channel.pattern,
            "setting": setting_to_plain(channel.setting), "fingerprint": channel.codec.fingerprint.hex(),
        })  # fmt: skip
    description = {"version": VERSION, "first": first, "longest": vocabulary.longest, "channels": entries}
    contents = {**tokenizer, FILE: json.dumps(description, indent=2) + "\n"}
    files.write_together({folder / name: content for name, content in contents.items()})


def load(folder: Path, given: dict[str, Codec]) -> tuple[Vocabulary, int]:
    """Return the vocabulary in a folder and the id of its first token. `given` holds codecs to use instead."""
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no bridge: it has no {FILE}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        entries = _check(description)
        if unknown := sorted(set(given) - {entry["name"] for entry in entries}):
            raise ValueError(
                f"unknown channel {unknown[0]!r}; the channels are {', '.join(e['name'] for e in entries)}"
            )
        channels = [_channel(folder, entry, given.get(entry["name"])) for entry in entries]
        return Vocabulary(channels, description["longest"]), description["first"]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {errors.first_line(error)}") from error


def _source(codec: Codec) -> str | None:
    """The name that loads this codec on every installation, or None."""
    name = checkpoint.shipped_with(codec.fingerprint.hex())
    if name is not None and checkpoint.is_portable(name):
        return name
    return codec.name if dependencies.resolves(codec.name, codec) else None


def _check(description: Any) -> list[dict[str, Any]]:
    if not isinstance(description, dict) or description.get("version") != VERSION:
        version = description.get("version") if isinstance(description, dict) else None
        raise ValueError(f"the version must be {VERSION}, got {version!r:.20}")
    require_integer("first", description.get("first"), 0, 2**31)
    require_integer("longest", description.get("longest"), 16, 2**24)
    entries = description.get("channels")
    if not isinstance(entries, list) or not entries:
        raise ValueError("channels must be a list of channels")
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != set(KEYS):
            raise ValueError(f"a channel must have the keys {', '.join(KEYS)}, got {entry!r:.80}")
        wrong = [key for key, kind in KEYS.items() if kind is not Any and not isinstance(entry[key], kind)]
        if wrong:
            raise ValueError(f"{wrong[0]} of a channel has the wrong type: {entry[wrong[0]]!r:.80}")
        check_name(entry["name"])
    return entries


def _channel(folder: Path, entry: dict[str, Any], codec: Codec | None) -> Channel:
    name = entry["name"]
    if codec is None:
        codec = dependencies.load(folder, entry["codec"] or name, entry["fingerprint"])
    else:
        dependencies.require_fingerprint(name, codec, entry["fingerprint"])
    return Channel(name, codec, setting_from_plain(entry["setting"], name), entry["pattern"])
