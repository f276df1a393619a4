"""What lies beside a merged tokenizer: tokenloom_bridge.json, and codecs that do not ship.

    {"version": 1, "first": 50257, "longest": 4096,
     "channels": [{"name", "codec", "setting", "pattern", "fingerprint"}]}

`first` is the id of the first token; `codec` a shipped or registered name, or null where the codec lies in a folder of
the channel's name. Nothing in the file is called, imported or downloaded.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenloom import codecs
from tokenloom.codecs import Codec, Target, checkpoint
from tokenloom.codecs.validate import is_integer

from .. import beside
from ..vocabulary.vocabulary import Channel, Vocabulary

FILE = "tokenloom_bridge.json"
VERSION = 1
KEYS = {"name": str, "codec": str | None, "setting": Any, "pattern": str, "fingerprint": str}


def check_name(name: str) -> None:
    """ValueError unless a channel's name can stand in tokens and be a folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} is no name for a channel; wanted letters, digits, '_', '.' and '-'")


def save(folder: Path, vocabulary: Vocabulary, first: int) -> None:
    entries = []
    for name, channel in vocabulary.channels.items():
        source = _source(channel.codec)
        if source is None:
            codecs.save(channel.codec, folder / name)
        setting = channel.setting
        entries.append({
            "name": name, "codec": source, "pattern": channel.pattern,
            "setting": {setting.name: setting.value} if isinstance(setting, Target) else setting,
            "fingerprint": channel.codec.fingerprint.hex(),
        })  # fmt: skip
    description = {"version": VERSION, "first": first, "longest": vocabulary.longest, "channels": entries}
    (folder / FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, at_hand: dict[str, Codec]) -> tuple[Vocabulary, int]:
    """The vocabulary that a folder describes, and the id of its first token in the tokenizer."""
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no bridge: there is no {FILE} in it")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        entries = _checked(description)
        if unknown := sorted(set(at_hand) - {entry["name"] for entry in entries}):
            raise ValueError(f"{unknown[0]!r} is none of its channels, {', '.join(e['name'] for e in entries)}")
        channels = [_channel(folder, entry, at_hand.get(entry["name"])) for entry in entries]
        return Vocabulary(channels, description["longest"]), description["first"]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def _source(codec: Codec) -> str | None:
    """The name that gives this very codec wherever the package is installed."""
    for name in codecs.shipped():
        if checkpoint.read_config(checkpoint.shipped_root() / name).get("fingerprint") == codec.fingerprint.hex():
            return name
    return codec.name if beside.at_hand(codec.name, codec) else None


def _checked(description: Any) -> list[dict[str, Any]]:
    if not isinstance(description, dict) or description.get("version") != VERSION:
        version = description.get("version") if isinstance(description, dict) else None
        raise ValueError(f"it describes no bridge of version {VERSION}, but version {version!r:.20}")
    if not is_integer(description.get("first"), 0, 2**31) or not is_integer(description.get("longest"), 16, 2**24):
        raise ValueError("first and longest are not both whole numbers")
    entries = description.get("channels")
    if not isinstance(entries, list) or not entries:
        raise ValueError("channels is no list of channels")
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != set(KEYS):
            raise ValueError(f"a channel has the keys {', '.join(KEYS)}, not {entry!r:.80}")
        wrong = [key for key, kind in KEYS.items() if kind is not Any and not isinstance(entry[key], kind)]
        if wrong:
            raise ValueError(f"{wrong[0]} {entry[wrong[0]]!r:.80} of a channel is of the wrong type")
        check_name(entry["name"])
    return entries


def _channel(folder: Path, entry: dict[str, Any], codec: Codec | None) -> Channel:
    name, setting = entry["name"], entry["setting"]
    if codec is None and entry["codec"] is None:
        codec = codecs.load(folder / name)
    elif codec is None:
        codec = beside.codec(folder, entry["codec"])
    if (here := codec.fingerprint.hex()) != entry["fingerprint"]:
        raise ValueError(
            f"channel {name} was merged with the codec of fingerprint {entry['fingerprint']}, the one here has {here}"
        )
    try:
        setting = Target(**setting) if isinstance(setting, dict) else setting
    except TypeError as error:
        raise ValueError(f"setting {setting!r:.80} of {name} is no target: {error}") from error
    return Channel(name, codec, setting, entry["pattern"])
