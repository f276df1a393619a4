"""Base class of the adapters of audio tokenizers in transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...streams.stages import Stage
from ...types import CodeSpec, Modality, Settings


@dataclass(frozen=True)
class AudioFamily:
    """Adapter of one architecture. Methods receive the transformers model and one waveform at a time.

    Attributes:
        config_class: Name of the config class in transformers.
        model_class: Name of the model class in transformers.
        parts: Config key of an inner config → allowed model types.
        undeclared: Keys that the config class accepts without declaring them.
        control: Name of the argument of the model's `encode` that takes the setting.
        whole_frames: Whether zeros complete the last frame before encoding, as in the model's own preprocessing.
    """

    config_class: str
    model_class: str
    parts: ClassVar[dict[str, tuple[str, ...]]] = {}
    undeclared: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[str] = ""
    whole_frames: ClassVar[bool] = True

    def spec(self, model: Any) -> CodeSpec:
        """Return the spec of the codec."""
        raise NotImplementedError

    def settings(self, model: Any) -> Settings:
        """Return the settings of the codec: the bandwidths if they control the model, or none."""
        return _bandwidth_settings(model) if self.control == "bandwidth" else Settings()

    def scales(self, spec: CodeSpec, model: Any, samples: int) -> int:
        """Return the number of scales, which are side information, of a waveform of this length."""
        return 0

    def encode(self, model: Any, x: Tensor, setting: Any, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        """Encode (1, channels, samples) to codes (1, quantizers, frames), and scales (1, n) if there are any."""
        return model.encode(x, **{self.control: setting}).audio_codes, None

    def decode(self, model: Any, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        """Decode codes to about Σ `sizes` samples, (1, channels, samples). `sizes` are the samples of each chunk."""
        return model.decode(codes).audio_values

    def stream_obstacle(self, model: Any) -> str | None:
        """Return the reason why the model cannot be streamed; None if it can. Then it has the four methods below."""
        return "it codes a signal as a whole"

    def analysis_stage(self, model: Any) -> Stage:
        """Return the encoder as a function with state: (batch, channels, samples) → latents (batch, dim, frames)."""
        raise NotImplementedError

    def synthesis_stage(self, model: Any) -> Stage:
        """Return the decoder as a function with state: latents (batch, dim, frames) → (batch, channels, samples)."""
        raise NotImplementedError

    def search(self, model: Any, latents: Tensor, setting: Any) -> Tensor:
        """Map latents (batch, dim, frames) to codes (batch, quantizers, frames)."""
        return model.quantizer.encode(latents, setting).transpose(0, 1)

    def embed(self, model: Any, codes: Tensor) -> Tensor:
        """Map codes (batch, quantizers, frames) to latents (batch, dim, frames)."""
        return model.quantizer.decode(codes)


def _bandwidth_settings(model: Any) -> Settings:
    """Return a model's bandwidths in kbit/s as settings. The default is the highest."""
    values = tuple(sorted(set(model.config.target_bandwidths)))
    if values[0] <= 0:
        raise ValueError(f"a bandwidth must be positive, got {values[0]} kbit/s")
    some = sorted({round(i * (len(values) - 1) / 7) for i in range(8)}) if len(values) > 8 else range(len(values))
    return Settings("bandwidth", "kbit/s", values[-1], tuple(values[i] for i in some), values)


def quantizer_settings(fewest: int, most: int) -> Settings:
    """Return the numbers of quantizers as settings. The default is the highest."""
    sweep = sorted({fewest + round(i * (most - fewest) / 7) for i in range(8)})
    return Settings("quantizers", "", most, tuple(sweep), tuple(range(fewest, most + 1)))


def quantizers_at_most(model: Any) -> int:
    """Return the number of quantizers that the highest bandwidth uses."""
    most = model.quantizer.get_num_quantizers_for_bandwidth(max(model.config.target_bandwidths))
    return min(most, model.config.num_quantizers)


def audio_spec(sizes: tuple[int, ...], stride: int, channels: int, sample_rate: int, **more: Any) -> CodeSpec:
    """Return a spec, ordered unless `more` overrides it."""
    return CodeSpec(Modality.AUDIO, sizes, (stride,), channels, sample_rate, **{"ordered": True, **more})
