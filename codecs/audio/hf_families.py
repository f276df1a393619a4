"""What differs between the audio tokenizers of transformers: one small adapter for each architecture.

A model is called on one sound at a time, (1, channels, samples) float32, and gives codes (1, quantizers, frames).
Left out are models whose latents are continuous (VibeVoice, Pocket TTS), those that speak from text (Moshi, CSM, Dia,
MusicGen; their audio tokenizers are of the kinds below), and NeuCodec, whose sounds come back at another sample rate
and without their last frame.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..types import CodeSpec, Modality, Settings

LARGEST = 2**14
"""Entries of the largest codebook that is one quantizer; a larger one is exposed as several."""


@dataclass(frozen=True)
class Family:
    """An architecture. `config` is its transformers configuration, `model` the model built from it.

    config_class, model_class  names in transformers
    parts    keys of its config that hold another config → model types allowed there
    besides  keys that its config takes without declaring them
    whole_frames  whether zeros complete the last frame before encoding, as its own preprocessing does
    """

    config_class: str
    model_class: str
    parts: ClassVar[dict[str, tuple[str, ...]]] = {}
    besides: ClassVar[tuple[str, ...]] = ()
    whole_frames: ClassVar[bool] = True

    def spec(self, model: nn.Module) -> CodeSpec:
        raise NotImplementedError

    def settings(self, model: nn.Module) -> Settings:
        return Settings()

    def scales(self, spec: CodeSpec, model: nn.Module, samples: int) -> int:
        """How many numbers of side information a sound of that length has."""
        return 0

    def encode(self, model: nn.Module, x: Tensor, setting: Any, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        """One sound → its codes, and (1, scales) where it has some."""
        raise NotImplementedError

    def decode(self, model: nn.Module, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        """The codes of one sound, and the samples of each of its chunks → the sound, of roughly its length."""
        raise NotImplementedError


def bandwidths(model: nn.Module) -> Settings:
    """The bandwidths that a model was trained for, in kbit/s; the highest is the default."""
    values = tuple(sorted(set(model.config.target_bandwidths)))
    if values[0] <= 0:
        raise ValueError(f"a bandwidth of {values[0]} kbit/s")
    some = sorted({round(i * (len(values) - 1) / 7) for i in range(8)}) if len(values) > 8 else range(len(values))
    return Settings("bandwidth", "kbit/s", values[-1], tuple(values[i] for i in some), values)


def counts(fewest: int, most: int) -> Settings:
    """Any number of quantizers; all of them are the default."""
    span = most - fewest
    sweep = sorted({fewest + round(i * span / 7) for i in range(8)})
    return Settings("quantizers", "", most, tuple(sweep), tuple(range(fewest, most + 1)))


def audio(sizes: tuple[int, ...], stride: int, channels: int, sample_rate: int, **more: Any) -> CodeSpec:
    given = {"ordered": True, "causal": False, **more}
    return CodeSpec(Modality.AUDIO, sizes, (stride,), channels, sample_rate, total=True, **given)


def used(model: nn.Module) -> int:
    """Quantizers that the highest bandwidth uses."""
    most = model.quantizer.get_num_quantizers_for_bandwidth(max(model.config.target_bandwidths))
    return min(most, model.config.num_quantizers)


class Encodec(Family):
    """EnCodec (arXiv 2210.13438): the whole sound, or chunks with a loudness each that overlap (48 kHz)."""

    whole_frames = False

    def spec(self, model: nn.Module) -> CodeSpec:
        config, window = model.config, None
        if config.chunk_length_s is not None:
            window = (config.chunk_length, config.chunk_stride)
            if window[1] is None or not window[0] <= 2 * window[1] <= 2 * window[0]:
                raise ValueError(f"chunks of {window[0]} samples every {window[1]}; they overlap by half at most")
        # by reflection the first frame hears those that follow it
        alone = config.norm_type == "weight_norm" and config.pad_mode != "reflect" and not (window or config.normalize)
        causal = config.use_causal_conv and alone
        sizes = (config.codebook_size,) * used(model)
        return audio(
            sizes, config.hop_length, config.audio_channels, config.sampling_rate, causal=causal, window=window
        )

    def settings(self, model: nn.Module) -> Settings:
        return bandwidths(model)

    def scales(self, spec: CodeSpec, model: nn.Module, samples: int) -> int:
        return len(spec.chunks(samples)) if model.config.normalize else 0

    def encode(self, model: nn.Module, x: Tensor, setting: float, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        hop = spec.window[1] if spec.window else 0
        codes, scales = [], []
        for i, size in enumerate(spec.chunks(x.shape[-1])):
            chunk = x[..., i * hop : i * hop + size]
            if model.config.normalize:
                scales.append((chunk.sum(1) / chunk.shape[1]).pow(2).mean(-1, keepdim=True).sqrt() + 1e-8)
                chunk = chunk / scales[-1][:, None]
            codes.append(model.quantizer.encode(model.encoder(chunk), setting).transpose(0, 1))
        return torch.cat(codes, -1), torch.cat(scales, 1) if scales else None

    def decode(self, model: nn.Module, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        frames = [-(-size // model.config.hop_length) for size in sizes]
        sounds = []
        for i, chunk in enumerate(codes.split(frames, -1)):
            sound = model.decoder(model.quantizer.decode(chunk.transpose(0, 1)))
            sounds.append(sound if scales is None else sound * scales[:, i, None, None])
        return sounds[0] if len(sounds) == 1 else overlapped(sounds, model.config.chunk_stride)


def overlapped(sounds: list[Tensor], hop: int) -> Tensor:
    """Chunks that begin `hop` samples apart → their mean under triangular weights that peak in a chunk's middle."""
    longest = sounds[0].shape[-1]
    weight = 0.5 - (torch.linspace(0, 1, longest + 2, device=sounds[0].device)[1:-1] - 0.5).abs()
    out = sounds[0].new_zeros(*sounds[0].shape[:-1], hop * (len(sounds) - 1) + longest)
    total = torch.zeros_like(out[0, 0])
    for i, sound in enumerate(sounds):
        part = slice(i * hop, i * hop + sound.shape[-1])
        out[..., part] += weight[: sound.shape[-1]] * sound
        total[part] += weight[: sound.shape[-1]]
    end = max(i * hop + sound.shape[-1] for i, sound in enumerate(sounds))
    return out[..., :end] / total[:end]


class Dac(Family):
    """Descript's codec (arXiv 2306.06546). Odd strides leave the decoder a few samples short: zeros follow."""

    besides = ("hidden_size", "upsampling_ratios")

    def spec(self, model: nn.Module) -> CodeSpec:
        config = model.config
        if math.prod(config.upsampling_ratios) != math.prod(config.downsampling_ratios):
            raise ValueError(f"strides {config.downsampling_ratios} down, but {config.upsampling_ratios} up")
        return audio(
            (config.codebook_size,) * config.n_codebooks, math.prod(config.downsampling_ratios), 1, config.sampling_rate
        )

    def settings(self, model: nn.Module) -> Settings:
        return counts(1, model.config.n_codebooks)

    def encode(self, model: nn.Module, x: Tensor, setting: int, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        return model.encode(x, n_quantizers=setting).audio_codes, None

    def decode(self, model: nn.Module, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        return model.decode(audio_codes=codes).audio_values[:, None]


class Mimi(Family):
    """Kyutai's codec (arXiv 2410.00037): the first quantizers are semantic, the others acoustic."""

    besides = ("frame_rate", "rope_theta")
    whole_frames = False

    def spec(self, model: nn.Module) -> CodeSpec:
        config = model.config
        if config.latent_stride < 2:
            raise ValueError(f"a frame rate of {config.frame_rate} Hz is not below the {config.encodec_frame_rate} Hz")
        stride = math.prod(config.upsampling_ratios) * config.latent_stride
        sizes = (config.codebook_size,) * config.num_quantizers
        return audio(sizes, stride, config.audio_channels, config.sampling_rate, causal=config.use_causal_conv)

    def settings(self, model: nn.Module) -> Settings:
        return counts(model.config.num_semantic_quantizers, model.config.num_quantizers)

    def encode(self, model: nn.Module, x: Tensor, setting: int, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        self._forget(model)
        return model.encode(x, num_quantizers=setting).audio_codes, None

    def decode(self, model: nn.Module, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        self._forget(model)
        return model.decode(codes).audio_values

    def _forget(self, model: nn.Module) -> None:
        """The library keeps codebooks from its first call on, when other weights come or the model moves as well."""
        for module in model.quantizer.modules():
            if hasattr(module, "_embed"):
                module._embed = None


class Xcodec(Family):
    """X-Codec (arXiv 2408.17175) and Higgs Audio 2: an acoustic DAC and semantic features of speech, quantized as one.

    The decoder is DAC's with its odd strides mended, so it gives whole strides.
    """

    parts: ClassVar = {
        "acoustic_model_config": ("dac",),
        "semantic_model_config": ("hubert", "wavlm", "wav2vec2"),
    }

    def spec(self, model: nn.Module) -> CodeSpec:
        config = model.config
        return audio((config.codebook_size,) * used(model), config.hop_length, 1, config.sample_rate)

    def settings(self, model: nn.Module) -> Settings:
        return bandwidths(model)

    def encode(self, model: nn.Module, x: Tensor, setting: float, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        return model.encode(x, bandwidth=setting).audio_codes, None

    def decode(self, model: nn.Module, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        return model.decode(codes).audio_values


class Xcodec2(Family):
    """X-Codec 2 (arXiv 2502.04128): one code a frame, of 65,536; here the halves of its levels are two quantizers.

    Its own preprocessing adds a frame of silence where a sound fills its last one; that frame's code is left out.
    """

    parts: ClassVar = {"semantic_model_config": ("wav2vec2-bert",)}
    whole_frames = False

    def spec(self, model: nn.Module) -> CodeSpec:
        config = model.config
        return audio(digits(config.quantization_levels), config.hop_length, 1, config.sampling_rate, ordered=False)

    def encode(self, model: nn.Module, x: Tensor, setting: None, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        from transformers import Xcodec2FeatureExtractor

        rate = model.config.sampling_rate
        extract = Xcodec2FeatureExtractor(sampling_rate=rate, hop_length=model.config.hop_length)
        inputs = extract(x[0, 0].cpu(), sampling_rate=rate, return_tensors="pt").to(x.device)
        codes = model.encode(**inputs).audio_codes.long()[..., : spec.grid((x.shape[-1],))[0]]
        parts = []
        for entries in spec.codebook_sizes:
            parts.append(codes % entries)
            codes = codes // entries
        return torch.cat(parts, 1), None

    def decode(self, model: nn.Module, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        place, index = 1, torch.zeros_like(codes[:, :1])
        for q, entries in enumerate(digits(model.config.quantization_levels)):
            index = index + place * codes[:, q : q + 1]
            place *= entries
        return model.decode(index).audio_values


def digits(levels: list[int]) -> tuple[int, ...]:
    """Scalar levels → codebook sizes of as few equal parts as stay within the largest codebook; the first counts least.

    An index is Σ level_i · Π_{j<i} levels_j, so a part of consecutive levels is a digit of it.
    """
    for parts in range(1, len(levels) + 1):
        bounds = [round(i * len(levels) / parts) for i in range(parts + 1)]
        sizes = [math.prod(levels[a:b]) for a, b in itertools.pairwise(bounds)]
        if max(sizes) <= LARGEST:
            return tuple(sizes)
    raise ValueError(f"more than {LARGEST} levels in {levels!r:.80}")


FAMILIES: dict[str, Family] = {
    "encodec": Encodec("EncodecConfig", "EncodecModel"),
    "dac": Dac("DacConfig", "DacModel"),
    "mimi": Mimi("MimiConfig", "MimiModel"),
    "xcodec": Xcodec("XcodecConfig", "XcodecModel"),
    "higgs_audio_v2_tokenizer": Xcodec("HiggsAudioV2TokenizerConfig", "HiggsAudioV2TokenizerModel"),
    "xcodec2": Xcodec2("Xcodec2Config", "Xcodec2Model"),
}
"""Model type → its adapter: the only classes of transformers that are ever built."""
PARTS = {
    "dac": ("DacConfig", FAMILIES["dac"].besides),
    "hubert": ("HubertConfig", ()),
    "wavlm": ("WavLMConfig", ()),
    "wav2vec2": ("Wav2Vec2Config", ()),
    "wav2vec2-bert": ("Wav2Vec2BertConfig", ()),
}
"""Model type of a part → its configuration class, and keys that it takes without declaring them."""


def padded(x: Tensor, stride: int) -> Tensor:
    """Zeros complete the last stride."""
    return F.pad(x, (0, -x.shape[-1] % stride))
