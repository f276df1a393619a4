"""Decoder under evaluation, with the settings of the codec and the numbers of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenloom import models
from tokenloom.codecs.types import Settings
from tokenloom.data.sources.source import at_least
from tokenloom.models.diffusion import samplers

from ..trial import RATE_UNITS
from .measures import measures_of
from .records import DecoderResults
from .variants import FLOW_STEPS

QUARTER_RANGE = (1 / 8, 3 / 8)
"""Range of shares of the highest setting that count as a quarter."""


class DecoderSetup:
    """Decoder and checked arguments of `evaluate`."""

    def __init__(
        self, decoder: str, settings: Sequence[Any] | None, steps: Sequence[int], seed: int, device: str
    ) -> None:
        self.name = str(decoder)
        loaded = models.load(decoder, device=device)
        if not isinstance(loaded, models.DiffusionDecoder):
            raise ValueError(f"{decoder} is not a diffusion decoder; shipped are {', '.join(models.decoders())}")
        self.decoder, self.codec, self.seed = loaded, loaded.codec, at_least("seed", seed, 0)
        self.measures = measures_of(self.codec)
        self.settings = _settings(self.codec.settings, settings)
        self.steps = _steps(steps)

    def results(self, title: str) -> DecoderResults:
        """Return results with a description of the decoder and no measurements."""
        known, spec = self.codec.settings, self.codec.spec
        highest = known.values[-1] if spec.ordered and len(known) > 1 else None
        return DecoderResults(
            decoder=self.name,
            codec=self.codec.name,
            modality=str(spec.modality),
            weights=sum(p.numel() for p in self.decoder.flow.parameters()),
            setting_name=known.name,
            settings=self.settings,
            highest=highest if isinstance(highest, int) else None,
            steps=self.steps,
            usual=self._usual_steps(),
            rate_unit=RATE_UNITS[spec.modality],
            space=self.measures.space,
            sample_rate=spec.sample_rate,
            title=title,
        )

    def _usual_steps(self) -> int:
        """Return the decoder's default, else the largest number below FLOW_STEPS, else the largest number."""
        few = [n for n in self.steps if n < FLOW_STEPS]
        return self.decoder.steps if self.decoder.steps in self.steps else (few or self.steps)[-1]

    def ordered_settings(self) -> list[Any]:
        """Return the highest setting, the one near a quarter of it, and the others from high to low.

        This order lets an interrupted run measure the claim about a quarter of the tokens.
        """
        falling = self.settings[::-1]
        quarter = nearest_quarter(falling, falling[0])
        return sorted(falling, key=lambda s: (s != falling[0], s != quarter))

    def label(self, setting: Any) -> str:
        """Return the prefix of texts about a setting."""
        return "" if setting is None else f"{self.codec.settings.name} {setting}: "


def nearest_quarter(settings: Sequence[Any], highest: Any) -> Any:
    """Return the setting nearest to a quarter of the highest, the lower one of two; None outside QUARTER_RANGE."""
    if not isinstance(highest, int):
        return None
    near = [s for s in settings if QUARTER_RANGE[0] * highest <= s <= QUARTER_RANGE[1] * highest]
    return min(near, key=lambda s: (abs(s - highest / 4), s), default=None)


def _settings(known: Settings, given: Sequence[Any] | None) -> list[Any]:
    """Return the checked settings, lowest rate first."""
    if given is None:
        return list(known.sweep)
    chosen = list(given) if isinstance(given, list | tuple) else [given]
    for value in chosen:
        if value not in known:
            raise ValueError(f"settings must be among {known.describe()}, got {value!r}")
    if not chosen:
        raise ValueError(f"settings must not be empty; choose among {known.describe()}, or give null for the sweep")
    return [value for value in known.values if value in chosen]


def _steps(given: Sequence[int] | int) -> list[int]:
    chosen = list(given) if isinstance(given, list | tuple) else [given]
    for n in chosen:
        samplers.times(n)
    if not chosen:
        raise ValueError("steps must not be empty; give numbers of steps, such as [1,2,4,50]")
    return sorted(set(chosen))
