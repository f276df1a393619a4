"""The codec task: reconstruct, and pay the quantizer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tokenloom.codecs import LatentCodec, Modality, media
from tokenloom.codecs.targets import psnr
from tokenloom.data import Source
from tokenloom.data.subset import Subset

from .losses import LOSSES

SHOWN = 8
"""Validation items whose reconstructions are written as pictures or sound."""
COUNTED = 512
"""Training items over which the codes are counted for the entropy rate."""


class CodecTask(nn.Module):
    """forward(batch) → (weighted sum, every term by name); what the loop differentiates."""

    def __init__(self, codec: LatentCodec, weights: dict[str, float]) -> None:
        super().__init__()
        self.codec = codec
        self.weights = weights

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        codec = self.codec
        quantized = codec.quantizer.quantize(codec.analyse(x))
        y = codec.synthesise(quantized.latents)
        with torch.autocast(x.device.type, enabled=False):
            y = y.float()[(..., *(slice(n) for n in x.shape[2:]))]
            terms = {name: LOSSES[name](y, x) for name in self.weights if name != "quantizer"}
            if "quantizer" in self.weights:
                terms["quantizer"] = quantized.loss.float()
            total = sum(self.weights[name] * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}


def validate(
    codec: LatentCodec, source: Source, device: torch.device
) -> tuple[dict[str, float], list[tuple[Tensor, Tensor]]]:
    """Figures over a small validation set at native sizes, and (original, decoded) of its first items."""
    figures: dict[str, list[float]] = {}
    shown = []
    used = [torch.zeros(n, dtype=torch.bool) for n in codec.spec.codebook_sizes]
    for item in source.items():
        x = fit(item, codec)[None].to(device)
        codes = codec.encode(x)
        y = codec.decode(codes)
        for q, seen in enumerate(used):
            seen[codes.indices[:, q].flatten().cpu()] = True
        name = "psnr" if codec.spec.modality is Modality.IMAGE else "si_sdr"
        figures.setdefault(name, []).append(psnr(x, y) if name == "psnr" else _si_sdr(x, y))
        if len(shown) < SHOWN:
            shown.append((x[0].cpu(), y[0].cpu()))
    result = {name: sum(values) / len(values) for name, values in figures.items()}
    result["usage"] = sum(float(seen.float().mean()) for seen in used) / len(used)
    return result, shown


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
    codec.counts.zero_()
    step = max(1, len(source) // COUNTED)
    counted = 0
    for item in Subset(source, range(0, len(source), step)).items():
        codes = codec.encode(fit(item, codec)[None].to(device))
        for q, entries in enumerate(codec.spec.codebook_sizes):
            codec.counts[q, :entries] += torch.bincount(codes.indices[:, q].flatten(), minlength=entries)
        counted += 1
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
