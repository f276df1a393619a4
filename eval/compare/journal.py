"""Journal of a comparison: the results so far, from which the same command continues after a kill.

The file has a line of JSON for each result. The exhibits of the measured items are in a hidden folder. Both are removed
when the comparison is complete.
"""

from __future__ import annotations

import base64
import faulthandler
import io
import json
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tokenloom import errors, files
from tokenloom.codecs.types import Codes

from ..serialize import from_plain
from .measurement import ItemResult

NAME, CRASH, MEDIA = "unfinished.jsonl", "crash.txt", ".unfinished"
VERSION = 2
ATTEMPTS = 3
"""Number of processes that end within one trial until it counts as failed."""

CRASHED = "the process crashed within this trial"
"""Reason of a trial that ended its process."""

EMPTY = (None, "", {}, [])
"""Values of fields that a line leaves out."""

Key = tuple[str, int, int]
"""Label of a codec, number of the setting in its sweep, and index of the item in the source."""


class Journal:
    """Results on disk, appended one by one. A line that a kill cut short is ignored.

    If the folder holds an unfinished comparison of another kind, its results are dropped with a warning.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.path, self.crash, self.media = folder / NAME, folder / CRASH, folder / MEDIA
        self.results: dict[Key, ItemResult] = {}
        self.facts: dict[str, Any] = {}
        self.begun: Counter[Key] = Counter()
        self.last: Key | None = None
        self.plan = json.loads(json.dumps(plan, default=str))
        if differing := self._read():
            warnings.warn(
                f"{folder} holds an unfinished comparison with another {differing}: starting anew", stacklevel=3
            )
        self.file = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Write to the file inside the block. A crash of native code leaves its trace in crash.txt."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.results and not self.facts and not self.begun:
            shutil.rmtree(self.media, ignore_errors=True)
            files.write(self.path, json.dumps({"version": VERSION, "plan": self.plan}) + "\n")
        crashed = self.crash.is_file() and bool(self.crash.read_text(errors="replace").strip())
        if crashed and self.last is not None:
            self.begun[self.last] = ATTEMPTS
        enabled = faulthandler.is_enabled()
        with self.path.open("a", encoding="utf-8") as self.file, self.crash.open("w") as crash:
            faulthandler.enable(crash)
            try:
                yield
            finally:
                faulthandler.enable(sys.__stderr__) if enabled and sys.__stderr__ else faulthandler.disable()
        self.crash.unlink()

    def remove(self) -> None:
        """Remove the files of a complete comparison."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.media, ignore_errors=True)

    def refusal(self, key: Key) -> str:
        """Return the reason why a trial must not begin: processes have ended within it before. "" if it may."""
        return CRASHED if self.begun[key] >= ATTEMPTS else ""

    def begin(self, key: Key) -> None:
        """Note that a trial begins."""
        self._write({"begin": key})

    def add(self, key: Key, result: ItemResult) -> None:
        """Keep a result."""
        self._write(
            {"key": key, "result": {k: v for k, v in asdict(replace(result, trial=None)).items() if v not in EMPTY}}
        )

    def note(self, name: str, value: Any) -> None:
        """Keep a value that can be written as JSON, in `facts`."""
        self.facts[name] = value
        self._write({"fact": name, "value": value})

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self.file is not None
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def _read(self) -> str:
        """Read the results of an earlier process; return what differs if they belong to another comparison."""
        if not self.path.is_file():
            return ""
        lines = list(_lines(self.path.read_bytes()))
        if not lines or lines[0].get("version") != VERSION:
            return "version"
        try:
            if differing := _difference(lines[0]["plan"], self.plan):
                return differing
            for line in lines[1:]:
                self._keep(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path} is damaged: {errors.first_line(error)}; without it, the comparison starts "
                             "anew") from error  # fmt: skip
        return ""

    def _keep(self, line: Mapping[str, Any]) -> None:
        if "begin" in line:
            self.last = _key(line["begin"])
            self.begun[self.last] += 1
        elif "fact" in line:
            self.facts[line["fact"]] = line["value"]
        else:
            key, self.last = _key(line["key"]), None
            self.results[key] = from_plain(ItemResult, line["result"])
            del self.begun[key]


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):  # cut short by a kill
            continue
        if isinstance(found, dict):
            yield found


def _key(parts: list[Any]) -> Key:
    label, setting, item = parts
    return label, setting, item


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first key whose value differs, with both values; "" if none does."""
    for key in {**now, **before}:
        was, value = before.get(key), now.get(key)
        if was != value:
            short = [text if len(text := str(v)) <= 60 else f"{text[:60]}…" for v in (was, value)]
            return key if short[0] == short[1] else f"{key} ({short[0]} before, now {short[1]})"
    return ""


def pack(codes: Codes) -> str:
    """Return codes as text; see `unpack`."""
    buffer = io.BytesIO()
    torch.save(codes, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def unpack(text: str) -> Codes:
    """Invert `pack`."""
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
