"""Documents packed into sequences of ids, which are the training batches of the transformer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tokenloom.codecs import Codes, Modality
from tokenloom.data.documents.documents import Documents
from tokenloom.data.documents.kind import DocumentPart
from tokenloom.data.documents.library import CaptionedSource
from tokenloom.data.tokens.encoder import Encoder
from tokenloom.data.tokens.table import TokenTable, cached_table, read_table
from tokenloom.models.vocabulary import DOCUMENT, STOP, Channel, Vocabulary, segments

FIELDS = ("ids", "places", "documents", "kinds", "weights", "modalities", "averages")
"""Rows of a packed sequence.

ids: the ids. places: place of the next id in its segment. documents: number of the document; 0 is padding.
kinds: grammar state of the next id. weights: weight of the next id in the loss, in thousandths. modalities: modality of
the segment of the next id. averages: mean total weight of the sequences of the batch, in millionths, constant.
"""
MODALITIES = tuple(Modality)
TRIES = 8
"""Number of documents that may fail to fit into the rest of a sequence before it is padded."""
MEASURED = 32
"""Documents of each kind that are measured before the first step."""
MAX_LEFT_OUT = 0.1
"""Largest share of the measured documents that may be longer than the context."""


class Packer:
    """Packs documents into sequences of `length` ids. Longer documents are left out, none is cut.

    `weights` holds the loss weight of each modality, and the factor `given` for the parts of a prompt. `cache` is the
    folder of the token cache. Raises ValueError if too many documents of one kind are longer than a sequence.
    """

    def __init__(
        self, documents: Documents, vocabulary: Vocabulary, weights: Mapping[str, float], length: int, cache: Path
    ) -> None:
        self.documents, self.vocabulary, self.weights = documents, vocabulary, weights
        self.length = length
        self.tables: dict[tuple[str, str], TokenTable] = {}
        most: dict[tuple[str, str], int] = {}  # kinds may name a channel or use it as the default of its modality
        for (source, channel), copies in documents.uses.items():
            used = source, vocabulary.channel(channel or str(documents.library[source].modality)).name
            most[used] = max(copies, most.get(used, 0))
        for (source, name), copies in most.items():
            used = documents.library[source], vocabulary.channels[name]
            self.tables[source, name] = _table(f"data.sources.{source}", *used, copies, cache)
        self.texts = vocabulary.channel("text")
        self._segments: dict[Any, Tensor] = {}
        self._lengths: dict[Any, int] = {}
        self._check()

    def _check(self) -> None:
        for kind in self.documents.kinds:
            rng = np.random.default_rng(0)
            lengths = [self.count(kind.draw(rng)) for _ in range(MEASURED)]
            if sum(n > self.length for n in lengths) > MAX_LEFT_OUT * MEASURED:
                raise ValueError(
                    f"data.kinds: documents of {kind.name} over {kind.source} take up to "
                    f"{max(lengths)} tokens; the context has {self.length} (omni.transformer.context)"
                )

    def count(self, parts: list[DocumentPart]) -> int:
        """Return the number of ids of a document."""
        for key, part in ((_key(part), part) for part in parts):
            if key not in self._lengths:
                codec = self.vocabulary.channels[self.channel(part)].codec
                (self._lengths[key],) = segments.length(codec, self.codes(part))
        return 2 + sum(self._lengths[_key(part)] for part in parts)

    def fits(self, parts: list[DocumentPart]) -> bool:
        """Return whether a document fits into a sequence. Warns if it does not."""
        if (count := self.count(parts)) > self.length:
            longer = f"a document of {count} tokens is longer than the context of {self.length}"
            warnings.warn(f"{longer}: such documents are left out", stacklevel=2)
        return count <= self.length

    def channel(self, part: DocumentPart) -> str:
        """Return the name of the channel of a part."""
        return self.vocabulary.channel(part.channel or str(part.modality)).name

    def codes(self, part: DocumentPart) -> Codes:
        """Return the codes of a part, a batch of one."""
        if part.modality is Modality.TEXT:
            return self.texts.codec.encode([part.text])
        return self.tables[part.source, self.channel(part)][part.item, part.copy]

    def segment(self, part: DocumentPart) -> Tensor:
        """Return the ids of a part."""
        key = _key(part)
        if key not in self._segments:
            (self._segments[key],) = self.vocabulary.segment(self.channel(part), self.codes(part))
        return self._segments[key]

    def size(self, part: DocumentPart) -> float:
        """Return the size of a part in bytes of text, pixels, or seconds."""
        sizes = self.codes(part).sizes[0]
        if part.modality is Modality.AUDIO:
            return int(sizes[0]) / self.vocabulary.channel(self.channel(part)).codec.spec.sample_rate
        return float(sizes.prod())

    def document(self, parts: list[DocumentPart]) -> Tensor:
        """Return a document as int64 (len(FIELDS), ids), with document number 1."""
        pieces = [self.segment(part) for part in parts]
        ids = torch.cat([torch.tensor([DOCUMENT]), *pieces, torch.tensor([STOP])])
        rows = torch.zeros(len(FIELDS), len(ids), dtype=torch.int64)
        kinds, places = self.vocabulary.states(ids)
        rows[0], rows[1], rows[2], rows[3] = ids, places, 1, kinds
        at = 0  # weights describe the next id, so they begin one id before the segment
        for part, segment in zip(parts, pieces, strict=True):
            weight = self.weights[str(part.modality)] * (self.weights["given"] if part.given else 1.0)
            rows[4, at : at + len(segment)] = round(1000 * weight)
            rows[5, at : at + len(segment)] = MODALITIES.index(part.modality)
            at += len(segment)
        rows[4, at], rows[5, at] = rows[4, at - 1], rows[5, at - 1]  # STOP
        return rows

    def pack(self, documents: list[Tensor]) -> Tensor:
        """Concatenate documents and pad them to the length. Raises ValueError if they are longer."""
        if (needed := sum(rows.shape[1] for rows in documents)) > self.length:
            raise ValueError(f"documents of {needed} tokens do not fit into a sequence of {self.length}")
        sequence = torch.zeros(len(FIELDS), self.length, dtype=torch.int64)
        at = 0
        for number, rows in enumerate(documents, 1):
            sequence[:, at : at + rows.shape[1]] = rows
            sequence[2, at : at + rows.shape[1]] = number
            at += rows.shape[1]
        return sequence

    def sequence(self, seed: int, slot: int) -> Tensor:
        """Return sequence number `slot` of a run, filled with as many documents as fit."""
        documents, room, misses, g = [], self.length, 0, slot << 16
        while (misses < TRIES or not documents) and room > 0:
            parts = self.documents.draw(seed, g)
            g += 1
            if self.fits(parts) and self.count(parts) <= room:
                documents.append(self.document(parts))
                room -= self.count(parts)
            else:
                misses += 1
        return self.pack(documents)


def _table(key: str, source: CaptionedSource, channel: Channel, copies: int, cache: Path) -> TokenTable:
    """Return the codes of a source in one channel, read from its tokens or encoded once from its signals."""
    if source.modality is not channel.modality:
        raise ValueError(f"{key} holds {source.modality}, the channel {channel.name} is for {channel.modality}")
    if source.source is None:
        if copies > 1:
            raise ValueError(f"{key} holds tokens of one copy of each item, not of {copies}")
        return read_table(source.config["path"], channel.codec, channel.setting)
    encoder = ChannelEncoder(channel)
    return cached_table(source.source, source.config, channel.codec, encoder, channel.setting, copies, cache)


class ChannelEncoder(Encoder):
    """Encoder of a channel. A signal that does not reach the channel's target keeps all tokens."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel.codec, channel.setting)
        self.channel = channel

    def encode(self, signals: Tensor | list[str]) -> Codes:
        return self.channel.encode(signals).to("cpu")


def _key(part: DocumentPart) -> tuple[Any, ...]:
    """Return the cache key of the ids of a part."""
    return part.text, part.source, part.item, part.copy, part.channel


class PackedBatches(Dataset):
    """The packed sequences of one rank by step."""

    def __init__(self, packer: Packer, seed: int, batch_size: int, slots: range) -> None:
        self.packer, self.seed, self.batch_size, self.slots = packer, seed, batch_size, slots

    def __getitem__(self, step: int) -> Tensor:
        rows = torch.stack([self.packer.sequence(self.seed, step * self.batch_size + slot) for slot in self.slots])
        weight = rows[:, FIELDS.index("weights")].sum().item()
        rows[:, FIELDS.index("averages")] = round(1000 * weight / len(rows))
        return rows
