"""The task `transformer`: next-token prediction over documents of several modalities."""

from __future__ import annotations

import inspect
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader

from tokenloom import errors, files, models
from tokenloom.codecs import Modality, media
from tokenloom.data.documents.documents import Documents
from tokenloom.data.documents.kind import DocumentPart
from tokenloom.models.omni.familiarity import Familiarity
from tokenloom.models.transformer import Transformer
from tokenloom.models.vocabulary import Vocabulary

from ..job import TrainingJob, register
from ..run_config import RunConfig
from .packing import FIELDS, MODALITIES, PackedBatches, Packer

NAMES = (*map(str, MODALITIES), "given")
"""Keys of `losses`: a weight for each modality, and the factor `given` for the parts of a prompt."""
MAX_SAMPLES = 8
"""Largest number of samples of a modality that a validation writes."""
VALIDATED = 512
"""Number of documents in a validation."""
FAMILIAR = 2048
"""Number of documents whose first texts say what is usual."""
UNITS = {
    Modality.TEXT: ("bits_per_byte", 1.0),
    Modality.IMAGE: ("bits_per_pixel", 1.0),
    Modality.AUDIO: ("kbps", 1e-3),
}
"""Name of the rate of each modality, and its scale relative to bits per unit of `Packer.size`."""


@dataclass
class TransformerConfig(RunConfig):
    """The keys of task=transformer."""

    omni: dict[str, Any] = field(default_factory=dict)
    tokens: str = "~/.cache/tokenloom/tokens"


@register("transformer")
class TransformerJob(TrainingJob):
    """`task=transformer`: next-token prediction over the ids that the grammar allows."""

    config = TransformerConfig
    losses = NAMES
    architecture = ("omni",)
    shardable = True
    cfg: TransformerConfig

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__(cfg)
        self.weights = _weights(cfg.losses)
        self.omni = models.build(cfg.omni)
        self.model, self.vocabulary = self.omni.transformer, self.omni.vocabulary
        self.documents = _documents(cfg.data)
        self.validation = _documents(cfg.validation) if cfg.validation else self.documents
        self.packer = self._packer(self.documents, self.weights)
        self.validating = self._packer(self.validation, {**self.weights, "given": 0.0})
        self.trained = {"documents": len(self.documents.kinds), "losses": self.weights}

    @classmethod
    def check(cls, cfg: TransformerConfig) -> None:
        if not cfg.omni:
            raise ValueError("no omni chosen; omni=small, or omni.channels and omni.transformer")

    def _packer(self, documents: Documents, weights: Mapping[str, float]) -> Packer:
        cache = Path(self.cfg.tokens).expanduser()
        packer = Packer(documents, self.vocabulary, weights, self.model.config["context"], cache)
        for (source, channel), table in packer.tables.items():
            size = self.omni.sizes.get(channel)
            if size and (stray := [s for s in table.tensors["sizes"].tolist() if tuple(s) != size]):
                found, expected = (" x ".join(map(str, s)) for s in (stray[0], size))
                raise ValueError(f"data.sources.{source} has an item of {found}; the channel {channel} has {expected}")
        return packer

    def recipe(self) -> dict[str, Any]:
        data = {key: str(value) for key, value in self.cfg.data.items() if key not in ("folder", "strict")}
        data["kinds"] = "; ".join(str(dict(kind)) for kind in self.cfg.data["kinds"])
        return {"losses": self.weights, "data": data, "fingerprints": self.vocabulary.fingerprints}

    def module(self, adversary: None) -> nn.Module:
        return TransformerObjective(self.model, self.vocabulary, self.weights)

    def batches(self, *, start_step: int, steps: int, rank: int, world_size: int) -> Iterator[tuple[int, Tensor]]:
        batches = PackedBatches(
            self.packer, self.cfg.seed, self.cfg.batch_size, range(rank, self.cfg.batch_size, world_size)
        )
        loader = DataLoader(
            batches, batch_size=None, sampler=range(start_step, steps), num_workers=self.cfg.workers,
            generator=torch.Generator(),
        )  # fmt: skip
        yield from zip(range(start_step, steps), loader, strict=True)

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        """Return the rate (bits per byte or pixel, kbit/s) and token perplexity of the parts outside prompts."""
        packer = self.validating
        nats, count, size = defaultdict(float), defaultdict(int), defaultdict(float)
        task = TransformerObjective(model, self.vocabulary, self.weights)
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
        self._sample(model, packer, drawn, samples / f"{step:07d}")
        metrics = {}
        for modality in (m for m in MODALITIES if count[m]):
            metrics[f"{modality}_perplexity"] = math.exp(nats[modality] / count[modality])
            name, scale = UNITS[modality]
            metrics[name] = nats[modality] / math.log(2) / size[modality] * scale
        return metrics

    def _sample(self, model: nn.Module, packer: Packer, drawn: list[list[DocumentPart]], start: Path) -> None:
        """Generate the last part of some documents of each modality from the part before it, and write both.

        Images form one file, decoded targets above and generated ones below; texts form one file with a line for each
        document; sounds form two files.
        """
        omni = models.Omni(self.vocabulary, model, **self.omni.options)
        for modality in dict.fromkeys(channel.modality for channel in self.vocabulary.channels.values()):
            pairs = [d for d in drawn if len(d) == 2 and d[0].modality is not d[1].modality is modality][:MAX_SAMPLES]
            pairs = [d for d in pairs if packer.channel(d[1]) == packer.channel(pairs[0][1])]
            if not pairs:
                continue
            prompts = [[self._signal(packer, d[0])] for d in pairs]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a text of a model at its beginning rarely ends within the context
                generated = omni.generate_batch(prompts, to=packer.channel(pairs[0][1]), seed=self.cfg.seed)
            _write(modality, [self._signal(packer, d[1]) for d in pairs], generated, start, omni.sample_rate)

    def _signal(self, packer: Packer, part: DocumentPart) -> Tensor | str:
        """Return the signal of a part as its codec decodes it."""
        return self.vocabulary.channels[packer.channel(part)].codec.decode(packer.codes(part))[0]

    def complete(self, model: nn.Module, device: torch.device) -> None:
        """Measure how usual the texts are that documents begin with, so that the model can warn of others."""
        drawn = (self.documents.draw(self.cfg.seed + 2, g)[0] for g in range(FAMILIAR))
        texts = sorted({part.text for part in drawn if part.given and part.modality is Modality.TEXT})
        if texts:
            prompts = self.omni.prompts.encode([[text] for text in texts])
            self.omni.familiarity = Familiarity.measure(model, self.vocabulary, prompts)

    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        omni = models.Omni(self.vocabulary, model, **self.omni.options)
        models.save(omni, out, store=self.cfg.store, trained=trained)


def _write(modality: Modality, targets: list[Any], generated: list[Any], start: Path, sample_rate: int) -> None:
    """Write targets and generated signals to files whose names begin with `start`."""
    if modality is Modality.TEXT:
        lines = (f"{target!r} → {text!r}" for target, text in zip(targets, generated, strict=True))
        files.write(start.with_name(f"{start.name}-text.txt"), "\n".join(lines) + "\n")
    elif modality is Modality.AUDIO:
        for name, sounds in (("original", targets), ("generated", generated)):
            joined = torch.cat([sound.cpu() for sound in sounds], 1)
            media.write(joined, start.with_name(f"{start.name}-{name}.wav"), sample_rate=sample_rate)
    else:
        sides = [min(x.shape[axis] for x in (*targets, *generated)) for axis in (1, 2)]
        rows = [torch.cat([x[:, : sides[0], : sides[1]].cpu() for x in row], 2) for row in (targets, generated)]
        media.write(torch.cat(rows, 1), start.with_name(f"{start.name}.png"))


class TransformerObjective(nn.Module):
    """forward(batch) → (weighted mean of nats per token, nats per token of each modality outside prompts).

    The mean is over the tokens of the whole batch. Its division among processes and parts has no effect.
    """

    def __init__(self, transformer: Transformer, vocabulary: Vocabulary, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.transformer = transformer
        self.allowed = vocabulary.kinds
        there = {channel.modality for channel in vocabulary.channels.values()}
        self.full_weights = {m: round(1000 * weights[m]) for m in MODALITIES if m in there and weights[m]}

    def losses(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return nats, weights and modalities of the weighted tokens of a batch (batch, FIELDS, length)."""
        ids, places, documents, kinds, weights, modalities, _ = batch.unbind(1)
        hidden = self.transformer(ids, places, documents=documents)
        counts = weights > 0
        counts[:, -1] = False
        targets = ids.roll(-1, 1)
        if counts.any():
            losses = self.transformer.losses(hidden[counts], targets[counts], kinds[counts], self.allowed)
        else:
            losses = hidden[counts].sum(1).float()  # empty, but connected to the weights, as other processes expect
        return losses, weights[counts], modalities[counts]

    def forward(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses, weights, modalities = self.losses(batch)
        mean = batch[:, FIELDS.index("averages"), 0].sum().float() / 1e6
        if distributed.is_initialized():  # gradients are averaged over processes, so the weights must be too
            distributed.all_reduce(mean)
            mean /= distributed.get_world_size()
        terms = {}
        for modality, weight in self.full_weights.items():
            here = (modalities == MODALITIES.index(modality)) & (weights == weight)
            terms[str(modality)] = (losses.detach() * here).sum() / here.sum().clamp_min(1)
        return (losses * weights).sum() / 1000 / mean.clamp_min(1e-6), terms


def _weights(given: Mapping[str, float | None]) -> dict[str, float]:
    """Return the checked weights of the losses. A weight that is not set is 1."""
    if unknown := [name for name, weight in given.items() if weight is not None and name not in NAMES]:
        raise ValueError(errors.unknown("loss of task=transformer", unknown[0], NAMES))
    weights = {name: 1.0 if given.get(name) is None else given[name] for name in NAMES}
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not (weight == 0 or 0.001 <= weight <= 1000):
            raise ValueError(f"losses.{name} must be 0 or from 0.001 to 1000, got {weight!r}")
    if not any(weights[modality] for modality in MODALITIES):
        raise ValueError(f"losses of {', '.join(MODALITIES)} are all 0: there is nothing to learn")
    return {name: float(weight) for name, weight in weights.items()}


def _documents(config: Mapping[str, Any]) -> Documents:
    options = dict(config)
    if options.pop("name", None) != "documents":
        raise ValueError("task=transformer needs data=documents (data.sources, data.kinds)")
    options.pop("strict", None)  # documents refer to items by number, so a broken item is always an error
    keys = list(inspect.signature(Documents).parameters)
    if unknown := sorted(set(options) - set(keys)):
        raise ValueError(f"data=documents takes no {unknown[0]!r}; it takes {', '.join(keys)}")
    if missing := [key for key in ("sources", "kinds") if not options.get(key)]:
        raise ValueError(f"data=documents needs data.{missing[0]}")
    return Documents(**options)
