"""The work on one shard: read items, encode them, write tokens. Any process on any machine can do it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import files
from tokenloom.codecs import media, rate
from tokenloom.codecs.media import Picture, notices
from tokenloom.codecs.media.pieces import Recording
from tokenloom.codecs.types import Codes, CodeSpec, Modality

from ..sources.source import BrokenItem, Item, Source
from .encoder import Encoder, EncoderConfig
from .optional import get_format
from .row import TokenRow, index_type, single

PROGRESS = ".progress"
"""Subfolder of unfinished shards and of the reports on complete ones. It is removed at the end."""

Signal = Tensor | str | Picture | Recording
Report = dict[str, Any]
"""The entry of a shard in the index."""


Events = Iterator[int | Report]
"""Numbers of items that were processed since the last event, and the report of each complete shard."""


@dataclass(frozen=True)
class ShardJob:
    """Everything that a worker needs to write shards of the items `indices` of a source.

    `batch_size` is the largest number of adjacent items of one size that are encoded together. With `strict` a broken
    item raises BrokenItem instead of being reported.
    """

    source: Source
    indices: Sequence[int]
    encoder: EncoderConfig
    out: str
    format: str
    shard_items: int
    batch_size: int
    strict: bool

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.indices) // self.shard_items)

    def range(self, number: int) -> Sequence[int]:
        """Return the items of a shard."""
        return self.indices[number * self.shard_items : (number + 1) * self.shard_items]

    def shard(self, encoder: Encoder, number: int) -> Events:
        """Write a shard, and its report once it is in place. Yields progress, and last the report."""
        format, out = get_format(self.format), Path(self.out)
        name = f"tokens-{number:06d}{format.SUFFIX}"
        report = {"number": number, "name": name, "items": 0, "tokens": 0, "broken": [], "refused": [], "other": 0}
        tally = notices.Tally()
        bits, left = [], len(self.range(number))
        dtype = index_type(encoder.spec.codebook_sizes)
        with files.writing(out / name, place=out / PROGRESS) as part:
            with part.open("wb") as file, format.writer(file, dtype) as write:
                for batch in _batches(self._signals(encoder, number, report, tally), self.batch_size):
                    for item, codes in _encode(encoder, batch, report, tally):
                        write(TokenRow(_utf8(item.key), codes, _utf8(item.caption), item.meta))
                        report["items"] += 1
                        report["tokens"] += int(rate.tokens(encoder.spec, codes))
                        bits.append(float(rate.nominal(encoder.spec, codes)))
                    left -= len(batch)
                    yield len(batch)
            report |= {"notices": tally.kinds} if tally.kinds else {}
            report |= {"nominal_bits": math.fsum(bits), "bytes": part.stat().st_size, "sha256": sha256(part)}
        files.write(out / PROGRESS / f"{number:06d}.json", json.dumps(report))
        yield left
        yield report

    def _signals(
        self, encoder: Encoder, number: int, report: Report, tally: notices.Tally
    ) -> Iterator[tuple[Item, Signal]]:
        """Yield the items of a shard with their signals for the codec. Omitted items go to the report."""
        spec = encoder.spec
        for i in self.range(number):
            try:
                large = self.source.large(i) if encoder.takes_large else None
                item = self.source[i] if large is None else large
            except BrokenItem as problem:
                if self.strict:
                    raise
                report["broken"].append(_utf8(str(problem)))
                continue
            if item.modality is not spec.modality:
                report["other"] += 1
                continue
            try:
                with notices.collect() as found:
                    signal = _convert(item, spec)
            except ValueError as error:
                report["refused"].append(_reason(item, error))
                continue
            tally.add(item.key, (*item.notices, *found))
            yield item, signal


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(
    encoder: Encoder, batch: list[tuple[Item, Signal]], report: Report, tally: notices.Tally
) -> Iterator[tuple[Item, Codes]]:
    """Yield the codes of each item. If the codec refuses a batch, its items are encoded one by one."""
    signals: list[Any] = [signal for _, signal in batch]
    first = signals[0]
    try:
        if isinstance(first, Picture | Recording):
            with notices.collect() as found:
                codes = encoder.encode_large(first)
            tally.add(batch[0][0].key, found)
        else:
            codes = encoder.encode(signals if isinstance(first, str) else torch.stack(signals))
    except ValueError as error:
        if len(batch) > 1:
            for one in batch:
                yield from _encode(encoder, [one], report, tally)
        else:
            report["refused"].append(_reason(batch[0][0], error))
        return
    for i, (item, _) in enumerate(batch):
        yield item, single(codes, i)


def _convert(item: Item, spec: CodeSpec) -> Signal:
    if not isinstance(item.signal, Tensor) or item.modality is not Modality.AUDIO or not item.signal.shape[-1]:
        return item.signal  # a text, an image, what is not in memory, or empty audio, which the codec refuses
    return media.convert(item.signal, item.sample_rate, spec.sample_rate, spec.channels)


def _batches(signals: Iterator[tuple[Item, Signal]], batch_size: int) -> Iterator[list[tuple[Item, Signal]]]:
    """Group adjacent signals of one size. The groups depend on the shard alone, not on the engine."""
    batch: list[tuple[Item, Signal]] = []
    for item, signal in signals:
        alike = batch and _alike(signal, batch[0][1])
        if batch and (len(batch) == batch_size or not alike):
            yield batch
            batch = []
        batch.append((item, signal))
    if batch:
        yield batch


def _alike(a: Signal, b: Signal) -> bool:
    """Return whether two signals go into one batch: texts, or tensors of one size."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape
    return isinstance(a, str) and isinstance(b, str)


def _utf8(text: str) -> str:
    """Escape characters that UTF-8 cannot encode; file names may hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _reason(item: Item, error: ValueError) -> str:
    return _utf8(f"{item.key}: {' '.join(str(error).split())}")
