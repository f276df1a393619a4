"""The transformer task: documents of several modalities, packed; one loss, told in each modality's currency."""

from __future__ import annotations

import inspect
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Dataset

from tokenloom import models
from tokenloom.codecs import Modality, checkpoint, media
from tokenloom.data.documents.documents import Documents
from tokenloom.data.documents.kind import DocumentPart
from tokenloom.data.documents.library import CaptionedSource
from tokenloom.data.tokens.job import Encoder
from tokenloom.data.tokens.table import TokenTable, cached_table, read_table
from tokenloom.models.transformer import Transformer
from tokenloom.models.vocabulary import DOCUMENT, STOP, Vocabulary, segments

from ..config import TrainConfig
from ..job import Job

FIELDS = ("ids", "places", "documents", "kinds", "weights", "modalities", "averages")
"""Rows of a packed sequence: each id, the place of the one after it, its document's number (0: padding), the kind of
the id after it, and what that one weighs in the loss, in thousandths; the modality of its segment; and, the same all
along, what the sequences of the batch weigh on average, in millionths."""
MODALITIES = tuple(Modality)
NAMES = (*map(str, MODALITIES), "given")
"""Weights that `losses` may hold."""
TRIES = 8
"""Documents drawn for the room that is left in a sequence before it stays empty."""
TRIED, LEFT_OUT = 32, 0.1
"""Documents of each kind that are measured before a training, and the share that may be longer than the context."""
SHOWN = 8
"""Pictures that a validation writes."""
VALIDATED = 512
"""Documents of a validation."""


class TransformerJob(Job):
    """`task=transformer`: next-token prediction over documents, over what may come next (see vocabulary.py)."""

    def __init__(self, cfg: TrainConfig) -> None:
        super().__init__(cfg)
        self.weights = _weights(cfg.losses)
        if not cfg.omni:
            raise ValueError("no omni chosen; omni=small, or omni.channels and omni.transformer")
        self.omni = models.build(cfg.omni)
        self.model, self.vocabulary = self.omni.transformer, self.omni.vocabulary
        self.documents = _documents(cfg.data)
        self.validation = _documents(cfg.validation) if cfg.validation else self.documents
        self.packer = self._packer(self.documents, self.weights)
        self.validating = self._packer(self.validation, {**self.weights, "given": 0.0})
        self.trained = {"documents": len(self.documents.kinds), "losses": self.weights}

    def _packer(self, documents: Documents, weights: Mapping[str, float]) -> Packer:
        folder = Path(self.cfg.tokens).expanduser()
        packer = Packer(documents, self.vocabulary, weights, self.model.config["context"], folder)
        for (source, channel), codes in packer.tables.items():
            size = self.omni.sizes.get(channel)
            if size and (stray := [s for s in codes.tensors["sizes"].tolist() if tuple(s) != size]):
                has, wanted = (" x ".join(map(str, s)) for s in (stray[0], size))
                raise ValueError(f"data.sources.{source} has an item of {has}; omni.channels says {channel}: {wanted}")
        return packer

    def recipe(self) -> dict[str, Any]:
        data = {key: str(value) for key, value in self.cfg.data.items() if key not in ("folder", "strict")}
        data["kinds"] = "; ".join(str(dict(kind)) for kind in self.cfg.data["kinds"])
        return {"losses": self.weights, "data": data, "fingerprints": self.vocabulary.fingerprints}

    def module(self, adversary: None) -> nn.Module:
        return TransformerTask(self.model, self.vocabulary, self.weights)

    def batches(self, *, start_step: int, steps: int, rank: int, world_size: int) -> Iterator[tuple[int, Tensor]]:
        packs = Packs(self.packer, self.cfg.seed, self.cfg.batch_size, range(rank, self.cfg.batch_size, world_size))
        loader = DataLoader(
            packs, batch_size=None, sampler=range(start_step, steps), num_workers=self.cfg.workers,
            generator=torch.Generator(),
        )  # fmt: skip
        yield from zip(range(start_step, steps), loader, strict=True)

    def fill(self, model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
        checkpoint.fill(model, tensors, where)

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        """bits per byte of text, bits per pixel, kbit/s, and the perplexity of a token, of what is asked for."""
        packer = self.validating
        nats, count, size = defaultdict(float), defaultdict(int), defaultdict(float)
        task = TransformerTask(model, self.vocabulary, self.weights)
        drawn = [self.validation.draw(self.cfg.seed + 1, g) for g in range(VALIDATED)]
        drawn = [parts for parts in drawn if packer.fits(parts)]
        for at in range(0, len(drawn), self.cfg.batch_size):
            some = drawn[at : at + self.cfg.batch_size]
            batch = torch.stack([packer.pack([packer.document(parts)]) for parts in some]).to(device)
            losses, _, modalities = task.losses(batch)
            for m, modality in enumerate(MODALITIES):
                here = modalities == m
                nats[modality] += losses[here].sum().item()
                count[modality] += int(here.sum())
            for part in (part for parts in some for part in parts if not part.given):
                size[part.modality] += packer.size(part)
        self._sample(model, packer, drawn, samples / f"{step:07d}.png")
        figures = {}
        for modality in (m for m in MODALITIES if count[m]):
            figures[f"{modality}_perplexity"] = math.exp(nats[modality] / count[modality])
            name, scale = CURRENCY[modality]
            figures[name] = nats[modality] / math.log(2) / size[modality] * scale
        return figures

    def _sample(self, model: nn.Module, packer: Packer, drawn: list[list[DocumentPart]], path: Path) -> None:
        """Pictures of the first documents that ask for one in words: the codec's own above, the model's below."""
        asked = [d for d in drawn if d[-1].modality is Modality.IMAGE and d[0].modality is Modality.TEXT][:SHOWN]
        asked = [d for d in asked if packer.channel(d[-1]) == packer.channel(asked[0][-1]) and len(d) == 2]
        if asked:
            channel = self.vocabulary.channels[packer.channel(asked[0][-1])]
            omni = models.Omni(self.vocabulary, model, **self.omni.options)
            made = omni.generate_batch([[d[0].text] for d in asked], to=channel.name, seed=self.cfg.seed)
            wanted = [channel.codec.decode(packer.codes(d[1]))[0] for d in asked]
            sides = [min(x.shape[axis] for x in (*wanted, *made)) for axis in (1, 2)]
            rows = [torch.cat([x[:, : sides[0], : sides[1]].cpu() for x in row], 2) for row in (wanted, made)]
            media.write(torch.cat(rows, 1), path)

    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        omni = models.Omni(self.vocabulary, model, **self.omni.options)
        models.save(omni, out, store=self.cfg.store, trained=trained)


CURRENCY = {
    Modality.TEXT: ("bits_per_byte", 1.0),
    Modality.IMAGE: ("bits_per_pixel", 1.0),
    Modality.AUDIO: ("kbps", 1e-3),
}
"""What a modality's bits are told in, per unit of `Packer.size`."""


class TransformerTask(nn.Module):
    """forward(batch) → (weighted mean of nats a token, nats a token of each modality where it is asked for).

    The mean is over the tokens of the whole batch, however it is shared out among processes and parts.
    """

    def __init__(self, transformer: Transformer, vocabulary: Vocabulary, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.transformer = transformer
        self.allowed = vocabulary.kinds
        there = {channel.modality for channel in vocabulary.channels.values()}
        self.asked = {m: round(1000 * weights[m]) for m in MODALITIES if m in there and weights[m]}

    def losses(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, len(FIELDS), length) int64 → nats, weights, modalities of the tokens that weigh anything."""
        ids, places, documents, kinds, weights, modalities, _ = batch.unbind(1)
        hidden = self.transformer(ids, places, documents=documents)
        counts = weights > 0
        counts[:, -1] = False
        targets = ids.roll(-1, 1)
        if counts.any():
            losses = self.transformer.losses(hidden[counts], targets[counts], kinds[counts], self.allowed)
        else:
            losses = hidden[counts].sum(1).float()  # of no token, and yet of the weights: one process of several
        return losses, weights[counts], modalities[counts]

    def forward(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses, weights, modalities = self.losses(batch)
        whole = batch[:, FIELDS.index("averages"), 0].sum().float() / 1e6
        if distributed.is_initialized():  # gradients are averaged over processes, hence their weights, too
            distributed.all_reduce(whole)
            whole /= distributed.get_world_size()
        terms = {}
        for modality, weight in self.asked.items():
            here = (modalities == MODALITIES.index(modality)) & (weights == weight)
            terms[str(modality)] = (losses.detach() * here).sum() / here.sum().clamp_min(1)
        return (losses * weights).sum() / 1000 / whole.clamp_min(1e-6), terms


class Packer:
    """Documents → ids → packed sequences of `length` ids; none is ever cut.

    Raises ValueError where more than a tenth of a kind's documents are longer; the rare longer one is left out.
    """

    def __init__(
        self, documents: Documents, vocabulary: Vocabulary, weights: Mapping[str, float], length: int, folder: Path
    ) -> None:
        self.documents, self.vocabulary, self.weights = documents, vocabulary, weights
        self.length = length
        self.tables: dict[tuple[str, str], TokenTable] = {}
        most: dict[tuple[str, str], int] = {}  # a channel may be requested by name and as the first of its modality
        for (source, channel), copies in documents.uses.items():
            used = source, vocabulary.channel(channel or str(documents.library[source].modality)).name
            most[used] = max(copies, most.get(used, 0))
        for (source, name), copies in most.items():
            used = documents.library[source], vocabulary.channels[name]
            self.tables[source, name] = _table(f"data.sources.{source}", *used, copies, folder)
        self.texts = vocabulary.channel("text")
        self._segments: dict[Any, Tensor] = {}
        self._lengths: dict[Any, int] = {}
        self._check()

    def _check(self) -> None:
        for kind in self.documents.kinds:
            rng = np.random.default_rng(0)
            lengths = [self.count(kind.draw(rng)) for _ in range(TRIED)]
            if sum(n > self.length for n in lengths) > LEFT_OUT * TRIED:
                raise ValueError(
                    f"data.kinds: documents of {kind.name} over {kind.source} take up to "
                    f"{max(lengths)} tokens; the context has {self.length} (omni.transformer.context)"
                )

    def count(self, parts: list[DocumentPart]) -> int:
        """Ids of a document."""
        for key, part in ((_key(part), part) for part in parts):
            if key not in self._lengths:
                codec = self.vocabulary.channels[self.channel(part)].codec
                (self._lengths[key],) = segments.length(codec, self.codes(part))
        return 2 + sum(self._lengths[_key(part)] for part in parts)

    def fits(self, parts: list[DocumentPart]) -> bool:
        """Whether a document is no longer than a sequence; a warning tells of the first that is."""
        if (count := self.count(parts)) > self.length:
            said = f"a document of {count} tokens is longer than the context of {self.length}"
            warnings.warn(f"{said}: such documents are left out", stacklevel=2)
        return count <= self.length

    def channel(self, part: DocumentPart) -> str:
        return self.vocabulary.channel(part.channel or str(part.modality)).name

    def codes(self, part: DocumentPart) -> Any:
        if part.modality is Modality.TEXT:
            return self.texts.codec.encode([part.text])
        return self.tables[part.source, self.channel(part)][part.item, part.copy]

    def segment(self, part: DocumentPart) -> Tensor:
        key = _key(part)
        if key not in self._segments:
            (self._segments[key],) = self.vocabulary.segment(self.channel(part), self.codes(part))
        return self._segments[key]

    def size(self, part: DocumentPart) -> float:
        """Bytes of text, pixels, seconds."""
        sizes = self.codes(part).sizes[0]
        if part.modality is Modality.AUDIO:
            return int(sizes[0]) / self.vocabulary.channel(self.channel(part)).codec.spec.sample_rate
        return float(sizes.prod())

    def document(self, parts: list[DocumentPart]) -> Tensor:
        """→ (len(FIELDS), ids) int64; the document's number is left 1."""
        pieces = [self.segment(part) for part in parts]
        ids = torch.cat([torch.tensor([DOCUMENT]), *pieces, torch.tensor([STOP])])
        rows = torch.zeros(len(FIELDS), len(ids), dtype=torch.int64)
        kinds, places = self.vocabulary.states(ids)
        rows[0], rows[1], rows[2], rows[3] = ids, places, 1, kinds
        at = 0  # a row speaks of the id after its own, hence from one before the segment's first id
        for part, segment in zip(parts, pieces, strict=True):
            weight = self.weights[str(part.modality)] * (self.weights["given"] if part.given else 1.0)
            rows[4, at : at + len(segment)] = round(1000 * weight)
            rows[5, at : at + len(segment)] = MODALITIES.index(part.modality)
            at += len(segment)
        rows[4, at], rows[5, at] = rows[4, at - 1], rows[5, at - 1]  # STOP
        return rows

    def pack(self, documents: list[Tensor]) -> Tensor:
        """Documents side by side, padded to the length; ValueError where they are longer."""
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
        """Sequence number `slot` of a run: as many documents as fit."""
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


def _table(key: str, source: CaptionedSource, channel: Channel, copies: int, folder: Path) -> TokenTable:
    """Return the codes of a source by one channel: the tokens that it holds, or its signals encoded once."""
    if source.modality is not channel.modality:
        raise ValueError(f"{key} holds {source.modality}, the channel {channel.name} is for {channel.modality}")
    if source.source is None:
        if copies > 1:
            raise ValueError(f"{key} holds tokens of one copy of each item, not of {copies}")
        return read_table(source.config["path"], channel.codec, channel.setting)
    encoder = Encoder(channel.codec.spec, channel.encode)
    return cached_table(source.source, source.config, channel.codec, encoder, channel.setting, copies, folder)


def _key(part: DocumentPart) -> tuple:
    """What a part's ids depend on."""
    return part.text, part.source, part.item, part.copy, part.channel


class Packs(Dataset):
    """Step → the packed sequences of one rank's slots."""

    def __init__(self, packer: Packer, seed: int, batch_size: int, slots: range) -> None:
        self.packer, self.seed, self.batch_size, self.slots = packer, seed, batch_size, slots

    def __getitem__(self, step: int) -> Tensor:
        rows = torch.stack([self.packer.sequence(self.seed, step * self.batch_size + slot) for slot in self.slots])
        weight = rows[:, FIELDS.index("weights")].sum().item()
        rows[:, FIELDS.index("averages")] = round(1000 * weight / len(rows))
        return rows


def _weights(given: Mapping[str, float | None]) -> dict[str, float]:
    """Weight of a token's loss by the modality of its segment, and of what is given against what is asked for."""
    if unknown := [name for name, weight in given.items() if weight is not None and name not in NAMES]:
        raise ValueError(f"losses.{unknown[0]} is none of {', '.join(NAMES)}")
    weights = {name: 1.0 if given.get(name) is None else given[name] for name in NAMES}
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not (weight == 0 or 0.001 <= weight <= 1000):
            raise ValueError(f"losses.{name} {weight!r} is neither 0 nor a weight from 0.001 to 1000")
    if not any(weights[modality] for modality in MODALITIES):
        raise ValueError(f"losses of {', '.join(MODALITIES)} are all 0: there is nothing to learn")
    return {name: float(weight) for name, weight in weights.items()}


def _documents(node: Mapping[str, Any]) -> Documents:
    node = dict(node)
    if node.pop("name", None) != "documents":
        raise ValueError("task=transformer learns from data=documents (data.sources, data.kinds)")
    node.pop("strict", None)  # items have numbers: a broken one is always refused
    keys = list(inspect.signature(Documents).parameters)
    if unknown := sorted(set(node) - set(keys)):
        raise ValueError(f"data=documents takes no {unknown[0]!r}; it takes {', '.join(keys)}")
    if missing := [key for key in ("sources", "kinds") if not node.get(key)]:
        raise ValueError(f"data=documents needs data.{missing[0]}")
    return Documents(**node)
