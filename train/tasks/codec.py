"""The task `codec`: train a codec to reconstruct signals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenloom import codecs
from tokenloom.codecs import Codec, LatentCodec, Modality, bitstream, rate, registry
from tokenloom.codecs.targets import psnr
from tokenloom.data import Source
from tokenloom.data.sources.source import Subset
from tokenloom.metrics import audio
from tokenloom.metrics.errors import Unmeasurable
from tokenloom.metrics.tokens import CodeCounts

from ..adversarial import adversary
from ..adversarial import config as adversarial
from ..adversarial.adversary import Adversary
from ..job import register
from ..losses import LOSSES, NAMES, Loss, networks, weights
from .signals import SignalConfig, SignalJob, signal_for, write_samples

MAX_SAMPLES = 8
"""Number of validation items whose reconstructions are written."""
MAX_LISTED = 64
"""Largest number of quantizers whose usage is logged one by one."""
MAX_COUNTED = 512
"""Number of training items whose codes are counted for the entropy rate."""


@dataclass
class CodecConfig(SignalConfig, adversarial.AdversarialConfig):
    """The keys of task=codec."""

    codec: dict[str, Any] = field(default_factory=dict)
    decoder_of: str | None = None
    lpips_weights: str | None = None


@register("codec")
class CodecJob(SignalJob):
    """`task=codec`: a learned codec on random crops of signals."""

    config = CodecConfig
    losses = NAMES
    architecture = ("codec",)
    counted = ("counts",)
    cfg: CodecConfig

    def __init__(self, cfg: CodecConfig) -> None:
        super().__init__(cfg)
        adversarial.check(cfg.adversary)
        self.model = self.codec = build_codec(cfg.codec) if cfg.decoder_of is None else codecs.load(cfg.decoder_of)
        if not isinstance(self.model, LatentCodec):
            raise ValueError(f"{self.model.name} has no weights to train; it is ready to use")
        if cfg.decoder_of is not None:
            freeze_codes(self.model)
        self.weights = weights(cfg.losses, self.model.spec.modality, self.model.codes_weight)
        self.loss_networks = networks(self.weights, cfg.lpips_weights)
        crop = self.first_crop()
        for name in self.weights:
            if loss := (LOSSES | self.loss_networks).get(name):
                loss(crop, crop)  # raises if the crop is too small for it
        self.trained = {"losses": self.weights, **adversarial.recipe(cfg)}

    @classmethod
    def check(cls, cfg: CodecConfig) -> None:
        super().check(cfg)
        if cfg.decoder_of is not None:
            if cfg.codec.get("name"):
                raise ValueError("decoder_of names a trained codec: leave codec= out")
            if cfg.losses.get("quantizer"):
                raise ValueError("with decoder_of, the codes do not train: leave losses.quantizer out")
        elif not cfg.codec.get("name"):
            trainable = (name for name in codecs.names() if issubclass(registry.codec_class(name), LatentCodec))
            raise ValueError("no codec chosen; codec=image/fsq or another of " + ", ".join(trainable))

    def recipe(self) -> dict[str, Any]:
        start = {} if self.cfg.decoder_of is None else {"decoder_of": self.cfg.decoder_of}
        return {"losses": self.weights, "data": self.data_recipe(), **start, **adversarial.recipe(self.cfg)}

    def start(self) -> None:
        if self.model.start_items and self.cfg.decoder_of is None:
            self.model.start(next(iter(self.crops(batch_size=self.model.start_items, steps=1)))[1])

    def adversary(self, fabric: Any) -> Adversary | None:
        return adversary.build(self.cfg, self.model, fabric, self.crop_size)

    def module(self, adversary: Adversary | None) -> nn.Module:
        kind = CodecObjective if self.cfg.decoder_of is None else DecoderObjective
        return kind(self.model, self.weights, self.loss_networks, adversary)

    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        metrics, examples = validate(model, self.validation_set, device)
        write_samples(examples, model, samples, step)
        return metrics

    def complete(self, model: nn.Module, device: torch.device) -> None:
        count_codes(model, self.train_set, device)

    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        codecs.save(model, out, store=self.cfg.store, trained=trained)


class CodecObjective(nn.Module):
    """forward(batch) → (weighted sum of losses, every loss by name).

    `loss_networks` are losses besides `LOSSES`. The adversary mixes the gradients in the steps that it takes part in.
    """

    def __init__(
        self, codec: LatentCodec, weights: dict[str, float], loss_networks: Mapping[str, Loss] | None = None,
        adversary: Adversary | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.codec = codec
        self.weights = weights
        self.loss_networks = dict(loss_networks or {})  # no submodules: neither trained nor saved
        self.adversary = adversary

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y, quantizer_loss = self.reconstruct(x)
        with torch.autocast(x.device.type, enabled=False):
            y = y.float()[(..., *(slice(n) for n in x.shape[2:]))]
            mixes = self.adversary is not None and self.adversary.mixes
            at = y.detach().requires_grad_() if mixes else y
            terms = {
                name: (self.loss_networks.get(name) or LOSSES[name])(at, x)
                for name in self.weights
                if name != "quantizer"
            }
            if mixes:
                total, logged = self.adversary.mix(x, y, at, terms, self.weights)
            else:
                total, logged = sum(self.weights[name] * term for name, term in terms.items()), {}
            if "quantizer" in self.weights:
                terms["quantizer"] = quantizer_loss.float()
                total = total + self.weights["quantizer"] * terms["quantizer"]
        return total, {name: term.detach() for name, term in terms.items()} | logged

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions, not cropped or clamped, and the loss of the quantizer."""
        return self.codec.reconstruct(x)


class DecoderObjective(CodecObjective):
    """The objective of a codec whose encoder and codes are fixed. Prefixes of ordered codes are drawn at random."""

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = self.codec.settings.values
        setting = values[int(torch.randint(len(values), ()))] if self.codec.spec.ordered else None
        latents = self.codec.embed(self.codec.encode(x, setting))
        return self.codec.synthesize(latents), x.new_zeros(())


def freeze_codes(codec: LatentCodec) -> None:
    """Let only the decoder of a codec train, so that its codes stay the same."""
    codec.requires_grad_(False)
    if not isinstance(decoder := getattr(codec, "decoder", None), nn.Module):
        raise ValueError(f"decoder_of needs a codec with a decoder of its own, {codec.name} has none")
    decoder.requires_grad_(True)


def build_codec(config: Mapping[str, Any]) -> Codec:
    """Build the codec of a run, fresh or with the weights of another project's checkpoint."""
    arguments = dict(config)
    name, checkpoint = arguments.pop("name"), arguments.pop("checkpoint", None)
    cls = registry.codec_class(name)
    importable = codecs.codec.import_arguments(cls) if codecs.codec.imports(cls) else set()
    if checkpoint is None:
        unset = {key for key in importable - codecs.codec.arguments(cls) if arguments.get(key) is None}
        return codecs.codec.build_known(name, **{key: value for key, value in arguments.items() if key not in unset})
    given = {key: value for key, value in arguments.items() if key in importable and value is not None}
    return codecs.codec.build_known(name, checkpoint=checkpoint, **given)


def validate(
    codec: LatentCodec, source: Source, device: torch.device
) -> tuple[dict[str, float], list[dict[str, Tensor]]]:
    """Evaluate a codec on a small set of whole items.

    Returns:
        (metrics, examples). The metrics are the mean PSNR or SI-SDR in dB, the usage and perplexity of the codebooks
        over all items (also of each quantizer, `usage/1`, …, if there are 2 to `MAX_LISTED`), and the coded bits per
        pixel of a codec with a context model. The examples are the original and decoded signals of the first items.
    """
    values: dict[str, list[float]] = defaultdict(list)
    examples = []
    counts = CodeCounts(codec.spec.codebook_sizes)
    for item in source.items():
        x = signal_for(codec, item)[None].to(device)
        codes = codec.encode(x)
        y = codec.decode(codes)
        counts.update(codes)
        if codec.spec.modality is Modality.IMAGE:
            values["psnr"].append(psnr(x, y))
        else:
            with suppress(Unmeasurable):  # silence
                values["si_sdr"].append(audio.si_sdr(x[0].cpu(), y[0].cpu()))
        if codec.context is not None:
            bits = rate.coded(bitstream.write(codec, codes))
            values["bits_per_pixel"].append(rate.bits_per_pixel(bits, codes).item())
        if len(examples) < MAX_SAMPLES:
            examples.append({"original": x[0].cpu(), "decoded": y[0].cpu()})
    means = {name: sum(found) / len(found) for name, found in values.items() if found}
    return means | _codebook_use(counts), examples


@torch.no_grad()
def count_codes(codec: LatentCodec, source: Source, device: torch.device) -> int:
    """Fill `codec.counts` from evenly spaced training items. Returns their number."""
    step = max(1, len(source) // MAX_COUNTED)
    counts, counted = CodeCounts(codec.spec.codebook_sizes), 0
    for item in Subset(source, range(0, len(source), step)).items():
        counts.update(codec.encode(signal_for(codec, item)[None].to(device)))
        counted += 1
    codec.counts.zero_()
    for row, count in zip(codec.counts, counts.counts, strict=True):
        row[: len(count)] = count
    return counted


def _codebook_use(counts: CodeCounts) -> dict[str, float]:
    result: dict[str, float] = {}
    for name in ("usage", "perplexity"):
        each = {f"{name}/{q}": v for q, use in enumerate(counts.summary(), 1) if (v := getattr(use, name)) is not None}
        result[name] = sum(each.values()) / len(each)
        result |= each if 1 < len(counts.counts) <= MAX_LISTED else {}
    return result
