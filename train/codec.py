"""The codec task: reconstruct, and pay the quantizer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenloom import codecs, data
from tokenloom.codecs import LatentCodec, Modality, bitstream, media, rate, registry
from tokenloom.codecs.targets import psnr
from tokenloom.codecs.usage import CodeCounts
from tokenloom.data import Source
from tokenloom.data.loader import Augment, crops
from tokenloom.data.subset import Subset

from . import adversary, check
from .adversary import Adversary
from .config import TrainConfig
from .job import Job
from .losses import LOSSES, Loss, networks, weights

DEFAULT_CROP = {Modality.IMAGE: 128, Modality.AUDIO: 1}
"""Pixels, seconds."""
HELD_OUT = 16

SHOWN = 8
"""Validation items whose reconstructions are written as pictures or sound."""
LISTED = 64
"""Quantizers whose usage is logged one by one."""
COUNTED = 512
"""Training items over which the codes are counted for the entropy rate."""


class CodecJob(Job):
    """`task=codec`: a learned codec on random crops of signals."""

    counted = ("counts",)

    def __init__(self, cfg: TrainConfig) -> None:
        super().__init__(cfg)
        adversary.check(cfg.adversary)
        arguments = dict(cfg.codec)
        self.model = codecs.build(arguments.pop("name"), **arguments)
        if not isinstance(self.model, LatentCodec):
            raise ValueError(f"{self.model.name} has nothing to train; it is ready to use")
        self.weights = weights(cfg.losses, self.model.spec.modality, self.model.codes_weight)
        self.losses = networks(self.weights, cfg.lpips_weights)
        self.train_set, self.validation_set = _split(cfg)
        self._check_data()
        self.trained = {"losses": self.weights, **adversary.recipe(cfg)}

    def recipe(self) -> dict[str, Any]:
        source = {"name": self.cfg.data["name"], "items": len(self.train_set)}
        return {"losses": self.weights, "data": source, **adversary.recipe(self.cfg)}

    def start(self) -> None:
        if self.model.starts_on:
            self.model.start(next(iter(self._crops(batch_size=self.model.starts_on, steps=1)))[1])

    def adversary(self, fabric: Any) -> Adversary | None:
        return adversary.build(self.cfg, self.model, fabric, self.crop_size)

    def module(self, adversary: Adversary | None) -> nn.Module:
        return CodecTask(self.model, self.weights, self.losses, adversary)

    def batches(self, **which: int) -> Any:
        return self._crops(batch_size=self.cfg.batch_size, workers=self.cfg.workers, **which)

    def fill(self, model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
        registry.fill(model, tensors, where)

    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        figures, shown = validate(model, self.validation_set, device)
        write_samples(shown, model, samples, step)
        return figures

    def complete(self, model: nn.Module, device: torch.device) -> None:
        count_codes(model, self.train_set, device)

    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        registry.save(model, out, store=self.cfg.store, trained=trained)

    @property
    def crop_size(self) -> int:
        """Pixels of a side, or samples."""
        return self.cfg.crop.size or DEFAULT_CROP[self.model.spec.modality] * (self.model.spec.sample_rate or 1)

    def _crops(self, **which: Any) -> Any:
        cfg, spec = self.cfg, self.model.spec
        audio = spec.modality is Modality.AUDIO
        crop = cfg.crop
        return crops(
            self.train_set, size=self.crop_size,
            seed=cfg.seed, strict=bool(cfg.data.get("strict", False)),
            sample_rate=spec.sample_rate, channels=spec.channels if audio else None,
            augment=Augment(crop.flip, crop.scale, crop.pad, crop.margin, tuple(crop.gain_db)), **which,
        )  # fmt: skip

    def _check_data(self) -> None:
        """One crop of the data, through every loss: wrong modalities, sizes and options show before a run has begun."""
        check.crop(self.crop_size, self.model.spec.modality)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken items are told of when they are trained on
            _, crop = next(iter(self._crops(batch_size=1, steps=1)))
        for name in self.weights:
            if loss := (LOSSES | self.losses).get(name):
                loss(crop, crop)
        modality, item = self.model.spec.modality, next(self.validation_set.items())
        if item.modality is not modality:
            raise ValueError(f"validation: {item.key} is {item.modality}, the codec is for {modality}")


def _split(cfg: TrainConfig) -> tuple[Source, Source]:
    """The training set, and a validation set: the one named, or the last few items of the first."""
    source = _open(cfg.data)
    if len(source) < 2:
        raise ValueError(f"{source.name} has {len(source)} items; training needs at least 2")
    if cfg.validation:
        return source, _open(cfg.validation)
    held = max(1, min(HELD_OUT, len(source) // 20))
    cut = len(source) - held
    return Subset(source, range(cut)), Subset(source, range(cut, len(source)))


def _open(node: dict[str, Any]) -> Source:
    if node.get("name") == "documents":
        raise ValueError("data=documents is for task=transformer; a codec trains on one of " + ", ".join(data.names()))
    return data.open_source(**{k: v for k, v in node.items() if k != "strict"})


class CodecTask(nn.Module):
    """forward(batch) → (weighted sum, every term by name); what the loop differentiates.

    losses     reconstruction losses beyond those of `LOSSES`, by name
    adversary  says from which step on it takes part, and weighs the losses' gradients where it does
    """

    def __init__(
        self, codec: LatentCodec, weights: dict[str, float], losses: Mapping[str, Loss] | None = None,
        adversary: Adversary | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.codec = codec
        self.weights = weights
        self.losses = dict(losses or {})  # no submodules: nothing of theirs is trained, averaged or saved
        self.adversary = adversary

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y, codes_loss = self.codec.reconstruct(x)
        with torch.autocast(x.device.type, enabled=False):
            y = y.float()[(..., *(slice(n) for n in x.shape[2:]))]
            mixes = self.adversary is not None and self.adversary.mixes
            at = y.detach().requires_grad_() if mixes else y
            terms = {
                name: (self.losses.get(name) or LOSSES[name])(at, x) for name in self.weights if name != "quantizer"
            }
            if mixes:
                total, figures = self.adversary.mix(x, y, at, terms, self.weights)
            else:
                total, figures = sum(self.weights[name] * term for name, term in terms.items()), {}
            if "quantizer" in self.weights:
                terms["quantizer"] = codes_loss.float()
                total = total + self.weights["quantizer"] * terms["quantizer"]
        return total, {name: term.detach() for name, term in terms.items()} | figures


def validate(
    codec: LatentCodec, source: Source, device: torch.device
) -> tuple[dict[str, float], list[tuple[Tensor, Tensor]]]:
    """Figures over a small validation set at native sizes, and (original, decoded) of its first items.

    Usage and perplexity are of one histogram of the codes of all items: the mean of the quantizers and, where there
    are several but no more than LISTED, of each (`usage/1`, …). The coded rate, where training moves it.
    """
    figures: dict[str, list[float]] = {}
    shown = []
    counts = CodeCounts(codec.spec.codebook_sizes)
    for item in source.items():
        x = fit(item, codec)[None].to(device)
        codes = codec.encode(x)
        y = codec.decode(codes)
        counts.update(codes)
        name = "psnr" if codec.spec.modality is Modality.IMAGE else "si_sdr"
        figures.setdefault(name, []).append(psnr(x, y) if name == "psnr" else _si_sdr(x, y))
        if codec.context is not None:
            bits = rate.coded(bitstream.write(codec, codes))
            figures.setdefault("bits_per_pixel", []).append(rate.bits_per_pixel(bits, codes).item())
        if len(shown) < SHOWN:
            shown.append((x[0].cpu(), y[0].cpu()))
    result = {name: sum(values) / len(values) for name, values in figures.items()}
    return result | _usage(counts), shown


def _usage(counts: CodeCounts) -> dict[str, float]:
    result: dict[str, float] = {}
    for name in ("usage", "perplexity"):
        each = {f"{name}/{q}": row[name] for q, row in enumerate(counts.summary(), 1) if row[name] is not None}
        result[name] = sum(each.values()) / len(each)
        result |= each if 1 < len(counts.counts) <= LISTED else {}
    return result


def fit(item, codec: LatentCodec) -> Tensor:
    """An item's signal at the codec's rate and channels; long audio cut to 10 s."""
    if codec.spec.modality is Modality.IMAGE:
        return item.signal
    signal = item.signal[:, : 10 * item.sample_rate]
    return media.convert(signal, item.sample_rate, codec.spec.sample_rate, codec.spec.channels)


def _si_sdr(x: Tensor, y: Tensor) -> float:
    """dB (Le Roux et al., arXiv 1811.02508)."""
    scaled = x * ((x * y).sum() / x.square().sum().clamp_min(1e-12))
    return 10 * torch.log10(scaled.square().sum() / (scaled - y).square().sum().clamp_min(1e-12)).item()


@torch.no_grad()
def count_codes(codec: LatentCodec, source: Source, device: torch.device) -> int:
    """Fill `codec.counts` from the training split; the number of items counted."""
    step = max(1, len(source) // COUNTED)
    counts, counted = CodeCounts(codec.spec.codebook_sizes), 0
    for item in Subset(source, range(0, len(source), step)).items():
        counts.update(codec.encode(fit(item, codec)[None].to(device)))
        counted += 1
    codec.counts.zero_()
    for row, count in zip(codec.counts, counts.counts, strict=True):
        row[: len(count)] = count
    return counted


def write_samples(shown: list[tuple[Tensor, Tensor]], codec: LatentCodec, folder: Path, step: int) -> None:
    """Original above reconstruction as one picture; or original and reconstruction as sound."""
    if not shown:
        return
    if codec.spec.modality is Modality.IMAGE:
        side = [min(256, min(x.shape[1] for x, _ in shown)), min(256, min(x.shape[2] for x, _ in shown))]
        rows = [torch.cat([pair[k][:, : side[0], : side[1]] for pair in shown], 2) for k in (0, 1)]
        media.write(torch.cat(rows, 1), folder / f"{step:07d}.png")
        return
    rate = codec.spec.sample_rate
    for k, kind in enumerate(("original", "decoded")):
        media.write(torch.cat([pair[k] for pair in shown], 1), folder / f"{step:07d}-{kind}.wav", sample_rate=rate)
