"""The codec task: reconstruct, and pay the quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenloom import codecs
from tokenloom.codecs import Codec, LatentCodec, Modality, bitstream, checkpoint, rate, registry
from tokenloom.codecs.targets import psnr
from tokenloom.data import Source
from tokenloom.data.sources.subset import Subset
from tokenloom.metrics.tokens import CodeCounts

from ..adversarial import adversary
from ..adversarial.adversary import Adversary
from ..config import TrainConfig
from ..losses import LOSSES, Loss, networks, weights
from .signals import SignalJob, fit, write_samples

SHOWN = 8
"""Validation items whose reconstructions are written as pictures or sound."""
LISTED = 64
"""Quantizers whose usage is logged one by one."""
COUNTED = 512
"""Training items over which the codes are counted for the entropy rate."""


def codec_of(node: dict[str, Any]) -> Codec:
    """The codec of a run: fresh, or with another project's weights, whose file says the architecture itself."""
    name, checkpoint = node.pop("name"), node.pop("checkpoint", None)
    cls = registry.codec_class(name)
    told = codecs.codec.import_arguments(cls) if codecs.codec.imports(cls) else set()
    if checkpoint is None:
        silent = {key for key in told - codecs.codec.arguments(cls) if node.get(key) is None}
        return codecs.build(name, **{key: value for key, value in node.items() if key not in silent})
    given = {key: value for key, value in node.items() if key in told and value is not None}
    return codecs.build(name, checkpoint=checkpoint, **given)


class CodecJob(SignalJob):
    """`task=codec`: a learned codec on random crops of signals."""

    counted = ("counts",)

    def __init__(self, cfg: TrainConfig) -> None:
        super().__init__(cfg)
        adversary.check(cfg.adversary)
        self.model = self.codec = codec_of(dict(cfg.codec))
        if not isinstance(self.model, LatentCodec):
            raise ValueError(f"{self.model.name} has nothing to train; it is ready to use")
        self.weights = weights(cfg.losses, self.model.spec.modality, self.model.codes_weight)
        self.losses = networks(self.weights, cfg.lpips_weights)
        self._check_data()
        self.trained = {"losses": self.weights, **adversary.recipe(cfg)}

    def recipe(self) -> dict[str, Any]:
        return {"losses": self.weights, "data": self.described(), **adversary.recipe(self.cfg)}

    def start(self) -> None:
        if self.model.starts_on:
            self.model.start(next(iter(self.crops(batch_size=self.model.starts_on, steps=1)))[1])

    def adversary(self, fabric: Any) -> Adversary | None:
        return adversary.build(self.cfg, self.model, fabric, self.crop_size)

    def module(self, adversary: Adversary | None) -> nn.Module:
        return CodecTask(self.model, self.weights, self.losses, adversary)

    def fill(self, model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
        checkpoint.fill(model, tensors, where)

    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        figures, shown = validate(model, self.validation_set, device)
        write_samples(shown, model, samples, step)
        return figures

    def complete(self, model: nn.Module, device: torch.device) -> None:
        count_codes(model, self.train_set, device)

    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        codecs.save(model, out, store=self.cfg.store, trained=trained)

    def _check_data(self) -> None:
        crop = self.first_crop()
        for name in self.weights:
            if loss := (LOSSES | self.losses).get(name):
                loss(crop, crop)


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
) -> tuple[dict[str, float], list[dict[str, Tensor]]]:
    """Figures over a small validation set at native sizes, and what to show of its first items.

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
            shown.append({"original": x[0].cpu(), "decoded": y[0].cpu()})
    result = {name: sum(values) / len(values) for name, values in figures.items()}
    return result | _usage(counts), shown


def _usage(counts: CodeCounts) -> dict[str, float]:
    result: dict[str, float] = {}
    for name in ("usage", "perplexity"):
        each = {f"{name}/{q}": v for q, use in enumerate(counts.summary(), 1) if (v := getattr(use, name)) is not None}
        result[name] = sum(each.values()) / len(each)
        result |= each if 1 < len(counts.counts) <= LISTED else {}
    return result


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
