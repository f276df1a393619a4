"""How a shard of tokens comes about: read, encode, write, put in place. Any process on any machine can do it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenloom import codecs, files
from tokenloom.codecs import media, rate, registry, validate
from tokenloom.codecs.codec import Codec, LatentCodec
from tokenloom.codecs.targets import KINDS
from tokenloom.codecs.types import Codes, Modality, Target

from ..sources.source import BrokenItem, Item, Source
from .shards import Row, format_of, index_type, single

PROGRESS = ".progress"
"""Folder in `out` of shards that are being written and of reports of whole ones; gone once all are whole."""


class Step(NamedTuple):
    """Items of the data that have been dealt with, and the tokens that they gave."""

    items: int
    tokens: int


@dataclass(frozen=True)
class Job:
    """All that a worker on any machine needs to know to write a shard."""

    source: Source
    indices: Sequence[int]
    codec: dict[str, Any]
    fingerprint: str
    setting: Any
    out: str
    format: str
    shard_items: int
    batch_size: int
    device: str
    strict: bool

    def open(self) -> Codec:
        """The codec on its device; ValueError where what lies there is another one than the job began with."""
        codec = open_codec(self.codec)
        if codec.fingerprint.hex() != self.fingerprint:
            raise ValueError(f"codec {self.codec['name']} is not the one that this job began with")
        return codec.to(check_device(self.device))

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-len(self.indices) // self.shard_items)

    def range(self, number: int) -> Sequence[int]:
        """Which items of the source are in a shard."""
        return self.indices[number * self.shard_items : (number + 1) * self.shard_items]

    def shard(self, codec: Codec, number: int) -> Iterator[Step | dict[str, Any]]:
        """Write a shard, and once it is in place its report: steps of progress, and last the report."""
        form, out = format_of(self.format), Path(self.out)
        work, name = out / PROGRESS, f"tokens-{number:06d}{form.suffix}"
        work.mkdir(parents=True, exist_ok=True)
        part = work / f"{name}.{socket.gethostname()}.{os.getpid()}.part"
        report = {"number": number, "name": name, "items": 0, "tokens": 0, "broken": [], "refused": [], "other": 0}
        bits, left = [], len(self.range(number))
        try:
            with part.open("wb") as file, form.writer(file, index_type(codec.spec.codebook_sizes)) as write:
                for batch in _batches(self._signals(codec, number, report), self.batch_size):
                    before = report["tokens"]
                    for item, codes in self._encode(codec, batch, report):
                        write(Row(_text(item.key), codes, _text(item.caption), item.meta))
                        report["items"] += 1
                        report["tokens"] += int(rate.tokens(codec.spec, codes))
                        bits.append(float(rate.nominal(codec.spec, codes)))
                    left -= len(batch)
                    yield Step(len(batch), report["tokens"] - before)
            with part.open("rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            report |= {"nominal_bits": math.fsum(bits), "bytes": part.stat().st_size, "sha256": digest}
            part.replace(out / name)
        finally:
            part.unlink(missing_ok=True)
        files.write(work / f"{number:06d}.json", json.dumps(report))
        yield Step(left, 0)
        yield report

    def _signals(self, codec: Codec, number: int, report: dict[str, Any]) -> Iterator[tuple[Item, Tensor | str]]:
        """The items of a shard as the codec takes them; what cannot be read, or is no such signal, is in the report."""
        for i in self.range(number):
            try:
                item = self.source[i]
            except BrokenItem as problem:
                if self.strict:
                    raise
                report["broken"].append(_text(str(problem)))
                continue
            if item.modality is not codec.spec.modality:
                report["other"] += 1
                continue
            try:
                yield item, _prepared(item, codec)
            except ValueError as error:
                report["refused"].append(_reason(item, error))

    def _encode(
        self, codec: Codec, batch: list[tuple[Item, Tensor | str]], report: dict[str, Any]
    ) -> Iterator[tuple[Item, Codes]]:
        """Codes of each item; where the codec refuses a batch, one by one, to learn of which item it speaks."""
        signals = [signal for _, signal in batch]
        x = signals if isinstance(signals[0], str) else torch.stack(signals).to(self.device)
        try:
            codes = codec.encode(x, dial(self.setting)).to("cpu")
        except ValueError as error:
            if len(batch) > 1:
                for one in batch:
                    yield from self._encode(codec, [one], report)
            else:
                report["refused"].append(_reason(batch[0][0], error))
            return
        for row, (item, _) in enumerate(batch):
            yield item, single(codes, row)


def _prepared(item: Item, codec: Codec) -> Tensor | str:
    if item.modality is not Modality.AUDIO or not item.signal.shape[-1]:  # what is empty, the codec refuses
        return item.signal
    return media.convert(item.signal, item.sample_rate, codec.spec.sample_rate, codec.spec.channels)


def _batches(
    signals: Iterator[tuple[Item, Tensor | str]], batch_size: int
) -> Iterator[list[tuple[Item, Tensor | str]]]:
    """Neighbours of one size: what is encoded together depends on the shard alone, not on who encodes it."""
    batch: list[tuple[Item, Tensor | str]] = []
    for item, signal in signals:
        alike = batch and (isinstance(signal, str) or signal.shape == batch[0][1].shape)
        if batch and (len(batch) == batch_size or not alike):
            yield batch
            batch = []
        batch.append((item, signal))
    if batch:
        yield batch


def _text(text: str) -> str:
    """Text as UTF-8 can hold it: file names need not be."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _reason(item: Item, error: Exception) -> str:
    return _text(f"{item.key}: {' '.join(str(error).split())}")


# -- the codec and its setting ------------------------------------------------------------------


def open_codec(node: Mapping[str, Any]) -> Codec:
    """A codec by `name` (what `codecs.load` takes), or a registered one built with arguments of its own."""
    arguments = {key: value for key, value in node.items() if key != "name"}
    name = str(node["name"])
    if not arguments:
        return codecs.load(name)
    if name not in codecs.names():
        raise ValueError(f"codec.{next(iter(arguments))} is for registered codecs; {name} is a trained one as it is")
    if issubclass(registry.codec_class(name), LatentCodec) and "checkpoint" not in arguments:
        return codecs.load(name)  # which says that it has to be trained first
    return codecs.build(name, **arguments)


def dial(value: Any) -> Any:
    """A setting as `encode` takes it: {psnr: 30} becomes a Target."""
    if not isinstance(value, Mapping):
        return value
    if unknown := sorted(set(map(str, value)) - set(KINDS)):
        raise ValueError(f"setting {dict(value)}: {unknown[0]!r} is no target; targets are {', '.join(KINDS)}")
    return Target(**value)


def checked_setting(value: Any, codec: Codec) -> Any:
    """The setting as the index says it: null becomes the default. ValueError where no item could be encoded with it."""
    goal = dial(value)
    if not isinstance(goal, Target):
        return validate.setting(goal, codec)
    if len(codec.settings) < 2 or codec.spec.modality is not KINDS[goal.name]:
        raise ValueError(f"{goal} is for {KINDS[goal.name]} codecs with settings, which {codec.name} is not")
    return {goal.name: float(goal.value)}


def check_device(name: str) -> str:
    """`name` if it is a device that is here; ValueError otherwise."""
    try:
        if torch.device(name).type in ("cpu", "cuda"):
            torch.zeros(1, device=name)
            return name
        reason = "wanted cpu or cuda"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
    raise ValueError(f"device={name} is not to be had: {reason}")
