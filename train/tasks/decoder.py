"""The task `decoder`: train a diffusion decoder behind a trained codec."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenloom import codecs, errors, models
from tokenloom.codecs import LatentCodec, Modality
from tokenloom.codecs.targets import psnr
from tokenloom.models import DiffusionDecoder

from ..job import register
from .flow import FlowObjective
from .signals import SignalConfig, SignalJob, signal_for, write_samples

WEIGHTS = {"flow": 1.0, "shortcut": 0.3, "codes": 0.01}
"""Default weights of the losses."""
FIT_CROPS = 64
"""Number of training crops for the fit of the reconstruction error before the first step."""
MAX_SAMPLES = 6
"""Number of validation items that are decoded and written."""
STEPS = (1, 4)
"""Sampling steps in a validation."""


@dataclass
class DecoderConfig(SignalConfig):
    """The keys of task=decoder."""

    decoder: dict[str, Any] = field(default_factory=dict)


@register("decoder")
class DecoderJob(SignalJob):
    """`task=decoder`: a diffusion decoder behind a trained codec, on random crops of signals."""

    config = DecoderConfig
    losses = tuple(WEIGHTS)
    architecture = ("decoder",)
    cfg: DecoderConfig

    def __init__(self, cfg: DecoderConfig) -> None:
        self.weights = _weights(cfg.losses)
        super().__init__(cfg)
        options = dict(cfg.decoder)
        chosen, begin = options.pop("settings", None), options.pop("begin", None)
        self.decoder = models.build_decoder(options)
        self.codec, self.model = self.decoder.codec, self.decoder.flow
        self.settings = SettingRange(self.codec, chosen)
        if begin is not None:
            self._begin(begin)
        self.first_crop()
        self.trained = {"losses": self.weights, "settings": chosen, "begin": begin}

    @classmethod
    def check(cls, cfg: DecoderConfig) -> None:
        super().check(cfg)
        if not cfg.decoder.get("codec"):
            shipped = ", ".join(codecs.shipped())
            raise ValueError(f"no codec chosen; decoder=small decoder.codec=FOLDER or one of {shipped}")

    def _begin(self, name: str) -> None:
        """Copy the weights of another decoder. Layers over the latents of another codec may differ."""
        other = models.load(name)
        if not isinstance(other, DiffusionDecoder):
            raise ValueError(f"decoder.begin must be a diffusion decoder, got {name}")
        mine, theirs = self.model.state_dict(), other.flow.state_dict()
        same = {k: v for k, v in theirs.items() if k in mine and mine[k].shape == v.shape}
        if unfit := [k for k in mine if k not in same and not k.startswith("network.latents.")]:
            raise ValueError(f"decoder.begin={name} has another architecture: {unfit[0]} does not fit")
        self.model.load_state_dict(mine | same)

    def recipe(self) -> dict[str, Any]:
        fingerprints = {"codec": self.codec.fingerprint.hex()}
        return {"losses": self.weights, "data": self.data_recipe(), "fingerprints": fingerprints}

    @torch.no_grad()
    def start(self) -> None:
        """Fit the error of the codec's own reconstruction as a function of the rate."""
        x = next(iter(self.crops(batch_size=FIT_CROPS, steps=1)))[1]
        rates, errors = [], []
        for setting in sorted({self.settings(i / 7) for i in range(8)}, key=self.codec.settings.values.index):
            given = self.decoder.conditioning(self.codec.encode(x, setting))
            rates.append(given.rate)
            errors.append((self.decoder.planes.forward(x) - given.reconstruction).square().mean((1, 2, 3)).sqrt())
        self.model.fit(torch.cat(rates), torch.cat(errors))

    def module(self, adversary: None) -> nn.Module:
        return FlowObjective(self.decoder, self.model, self.weights, self.settings)

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device, samples: Path, step: int) -> dict[str, float]:
        """Measure distortion and the share of codes that survive re-encoding, at the lowest and highest setting."""
        self.codec.to(device)
        decoder = self.decoder.with_flow(model)
        values: dict[str, list[float]] = defaultdict(list)
        examples = []
        for item, _ in zip(self.validation_set.items(), range(MAX_SAMPLES), strict=False):
            x = signal_for(self.codec, item)[None].to(device)
            versions = {"original": x[0].cpu()}
            for end, setting in (("low", self.settings(0.0)), ("high", self.settings(1.0))):
                codes = self.codec.encode(x, setting)
                outputs = {"plain": self.codec.decode(codes)}
                outputs |= {f"{steps}-steps": decoder.decode(codes, steps) for steps in STEPS}
                for name, y in outputs.items():
                    values[f"{self._metric}/{end}/{name}"].append(self._distortion(x, y))
                    again = self.codec.encode(y, setting).indices
                    if again.shape == codes.indices.shape:
                        same = (again == codes.indices).float().mean().item()
                        values[f"same_codes/{end}/{name}"].append(same)
                    versions[f"{end}-{name}"] = y[0].cpu()
            examples.append(versions)
        write_samples(examples, self.codec, samples, step)
        means = {name: sum(found) / len(found) for name, found in values.items()}
        return means | {self._metric: means[f"{self._metric}/high/{STEPS[-1]}-steps"]}

    @property
    def _metric(self) -> str:
        return "psnr" if self.codec.spec.modality is Modality.IMAGE else "log_spectral_distance"

    def _distortion(self, x: Tensor, y: Tensor) -> float:
        """Return the PSNR of images in dB, or the mean absolute difference of the spectral planes of audio in dB."""
        if self.codec.spec.modality is Modality.IMAGE:
            return psnr(x, y)
        planes = self.decoder.planes
        return (planes.forward(x) - planes.forward(y)).abs().mean().item() * planes.decibel

    def save(self, model: nn.Module, out: Path, trained: dict[str, Any]) -> None:
        models.save(self.decoder.with_flow(model), out, store=self.cfg.store, trained=trained)


class SettingRange:
    """Maps a position from 0 to 1 to a setting of a codec, interpolated along its sweep or the chosen settings."""

    def __init__(self, codec: LatentCodec, chosen: Any = None) -> None:
        points = list(codec.settings.sweep) if chosen is None else chosen
        allowed = codec.settings.describe()
        if not isinstance(points, list) or not points:
            raise ValueError(
                f"decoder.settings must be a list of settings of {codec.name} ({allowed}), got {chosen!r:.80}"
            )
        if wrong := [value for value in points if value not in codec.settings]:
            raise ValueError(f"decoder.settings: a setting of {codec.name} must be one of {allowed}, got {wrong[0]!r}")
        self.values = codec.settings.values
        self.points = sorted(points, key=self.values.index)

    def __call__(self, position: float) -> Any:
        points = self.points
        if any(not isinstance(point, int | float) for point in points):
            return points[min(int(position * len(points)), len(points) - 1)]
        place = position * (len(points) - 1)
        low = min(int(place), max(len(points) - 2, 0))
        high = min(low + 1, len(points) - 1)
        target = points[low] + (place - low) * (points[high] - points[low])
        return min(self.values, key=lambda value: abs(value - target))


def _weights(given: Mapping[str, float | None]) -> dict[str, float]:
    """Return the checked weights of the losses. A weight that is not set is the default."""
    if unknown := [name for name, weight in given.items() if weight is not None and name not in WEIGHTS]:
        raise ValueError(errors.unknown("loss of task=decoder", unknown[0], WEIGHTS))
    weights = {name: default if given.get(name) is None else given[name] for name, default in WEIGHTS.items()}
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"losses.{name} must be a weight of at least 0, got {weight!r}")
    if not weights["flow"]:
        raise ValueError("losses.flow must be above 0: shortcuts need a flow")
    return {name: float(weight) for name, weight in weights.items()}
