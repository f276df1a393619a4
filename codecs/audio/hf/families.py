"""Adapters of the audio tokenizers in transformers.

Not supported: models with continuous latents (VibeVoice, Pocket TTS); models that synthesize speech from text (Moshi,
CSM, Dia, MusicGen; their audio tokenizers belong to the families below); and NeuCodec, which decodes at another sample
rate and without the last frame.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import foreign
from ...quantizers import product
from ...streams.stages import Chain, Stage
from ...types import CodeSpec, Settings
from ..overlap import overlap_add
from . import streams
from .family import AudioFamily, audio_spec, quantizer_settings, quantizers_at_most


class EncodecFamily(AudioFamily):
    """EnCodec (arXiv 2210.13438). At 48 kHz it codes overlapping chunks with a scale each."""

    control = "bandwidth"
    whole_frames = False

    def spec(self, model: Any) -> CodeSpec:
        config, window = model.config, None
        if config.chunk_length_s is not None:
            window = (config.chunk_length, config.chunk_stride)
            if window[1] is None or not window[0] <= 2 * window[1] <= 2 * window[0]:
                raise ValueError(f"chunks must overlap by at most half, got {window[0]} samples every {window[1]}")
        causal, sizes = self.stream_obstacle(model) is None, (config.codebook_size,) * quantizers_at_most(model)
        return audio_spec(
            sizes, config.hop_length, config.audio_channels, config.sampling_rate, causal=causal, window=window
        )

    def stream_obstacle(self, model: Any) -> str | None:
        config = model.config
        if config.chunk_length_s is not None:
            return "it codes chunks that overlap"
        if config.normalize:
            return "it divides the signal by its loudness"
        if config.norm_type != "weight_norm":
            return "its norms average over the whole signal"
        return streams.obstacle(config)

    def scales(self, spec: CodeSpec, model: Any, samples: int) -> int:
        return len(spec.chunks(samples)) if model.config.normalize else 0

    def encode(self, model: Any, x: Tensor, setting: float, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        hop = spec.window[1] if spec.window else 0
        codes, scales = [], []
        for i, size in enumerate(spec.chunks(x.shape[-1])):
            chunk = x[..., i * hop : i * hop + size]
            if model.config.normalize:
                scales.append((chunk.sum(1) / chunk.shape[1]).pow(2).mean(-1, keepdim=True).sqrt() + 1e-8)
                chunk = chunk / scales[-1][:, None]
            codes.append(self.search(model, model.encoder(chunk), setting))
        return torch.cat(codes, -1), torch.cat(scales, 1) if scales else None

    def decode(self, model: Any, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        frames = [-(-size // model.config.hop_length) for size in sizes]
        chunks = []
        for i, chunk in enumerate(codes.split(frames, -1)):
            decoded = model.decoder(self.embed(model, chunk))
            chunks.append(decoded if scales is None else decoded * scales[:, i, None, None])
        return chunks[0] if len(chunks) == 1 else overlap_add(chunks, model.config.chunk_stride)

    def analysis_stage(self, model: Any) -> Stage:
        return Chain(streams.convolutions(model.encoder.layers))

    def synthesis_stage(self, model: Any) -> Stage:
        return Chain(streams.convolutions(model.decoder.layers))

    def embed(self, model: Any, codes: Tensor) -> Tensor:
        return model.quantizer.decode(codes.transpose(0, 1))


class DacFamily(AudioFamily):
    """Descript's codec (arXiv 2306.06546). With odd strides the decoder returns a few samples less."""

    undeclared = ("hidden_size", "upsampling_ratios")
    control = "n_quantizers"

    def spec(self, model: Any) -> CodeSpec:
        config = model.config
        stride = math.prod(config.downsampling_ratios)
        if (up := math.prod(config.upsampling_ratios)) != stride:
            raise ValueError(f"the stride of upsampling must be that of downsampling, {stride}, got {up}")
        return audio_spec((config.codebook_size,) * config.n_codebooks, stride, 1, config.sampling_rate)

    def settings(self, model: Any) -> Settings:
        return quantizer_settings(1, model.config.n_codebooks)

    def decode(self, model: Any, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        return model.decode(audio_codes=codes).audio_values[:, None]


class MimiFamily(AudioFamily):
    """Kyutai's codec (arXiv 2410.00037). The first quantizers are semantic, the others acoustic."""

    undeclared = ("frame_rate", "rope_theta")
    whole_frames = False

    def spec(self, model: Any) -> CodeSpec:
        config = model.config
        if config.latent_stride < 2:
            raise ValueError(f"frame_rate must be below {config.encodec_frame_rate} Hz, got {config.frame_rate}")
        stride = math.prod(config.upsampling_ratios) * config.latent_stride
        sizes = (config.codebook_size,) * config.num_quantizers
        causal = self.stream_obstacle(model) is None
        return audio_spec(sizes, stride, config.audio_channels, config.sampling_rate, causal=causal)

    def stream_obstacle(self, model: Any) -> str | None:
        if model.config.rope_parameters["rope_type"] in ("dynamic", "longrope"):
            return "its rotary positions depend on the length of the signal"
        if model.config.sliding_window < 2:  # the library's cache keeps all positions then
            return f"its attention must reach 2 positions or more, got {model.config.sliding_window}"
        return streams.obstacle(model.config)

    def settings(self, model: Any) -> Settings:
        return quantizer_settings(model.config.num_semantic_quantizers, model.config.num_quantizers)

    def encode(self, model: Any, x: Tensor, setting: int, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        self._clear_cache(model)
        return model.encode(x, num_quantizers=setting, use_streaming=False).audio_codes, None

    def decode(self, model: Any, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        self._clear_cache(model)
        return super().decode(model, codes, scales, sizes)

    def analysis_stage(self, model: Any) -> Stage:
        self._clear_cache(model)
        network, half = self._side(model, "encoder")
        attention = streams.Attention(half.encoder_transformer)
        return Chain([*streams.convolutions(network.layers), attention, *streams.convolutions([half.downsample])])

    def synthesis_stage(self, model: Any) -> Stage:
        self._clear_cache(model)
        network, half = self._side(model, "decoder")
        attention = streams.Attention(half.decoder_transformer)
        return Chain([*streams.convolutions([half.upsample]), attention, *streams.convolutions(network.layers)])

    def _side(self, model: Any, name: str) -> tuple[Any, Any]:
        """Return the SEANet of the encoder or decoder, and what holds its other layers: the model in older releases."""
        side = getattr(model, name)
        return (getattr(side, f"{name}_seanet"), side) if hasattr(side, f"{name}_seanet") else (side, model)

    def _clear_cache(self, model: Any) -> None:
        """Clear the library's cache of codebooks, which is stale after new weights or a move to a device."""
        for module in model.quantizer.modules():
            if hasattr(module, "_embed"):
                module._embed = None


class XcodecFamily(AudioFamily):
    """X-Codec (arXiv 2408.17175) and Higgs Audio 2: joint quantization of a DAC's latents and semantic features.

    The decoder is that of DAC, but returns whole strides if strides are odd.
    """

    parts: ClassVar = {
        "acoustic_model_config": ("dac",),
        "semantic_model_config": ("hubert", "wavlm", "wav2vec2"),
    }
    control = "bandwidth"

    def spec(self, model: Any) -> CodeSpec:
        config = model.config
        return audio_spec((config.codebook_size,) * quantizers_at_most(model), config.hop_length, 1, config.sample_rate)


class Xcodec2Family(AudioFamily):
    """X-Codec 2 (arXiv 2502.04128): one codebook of 65,536 entries, split into two quantizers.

    The model's preprocessing adds a frame of silence to a waveform of whole frames. The code of that frame is dropped.
    """

    parts: ClassVar = {"semantic_model_config": ("wav2vec2-bert",)}
    whole_frames = False

    def spec(self, model: Any) -> CodeSpec:
        config = model.config
        sizes = product.level_products(config.quantization_levels)
        return audio_spec(sizes, config.hop_length, 1, config.sampling_rate, ordered=False)

    def encode(self, model: Any, x: Tensor, setting: None, spec: CodeSpec) -> tuple[Tensor, Tensor | None]:
        rate = model.config.sampling_rate
        extractor = foreign.from_transformers("Xcodec2FeatureExtractor")
        extract = extractor(sampling_rate=rate, hop_length=model.config.hop_length)
        inputs = extract(x[0, 0].cpu(), sampling_rate=rate, return_tensors="pt").to(x.device)
        codes = model.encode(**inputs).audio_codes.long()[..., : spec.grid((x.shape[-1],))[0]]
        return product.split(codes[:, 0], spec.codebook_sizes), None

    def decode(self, model: Any, codes: Tensor, scales: Tensor | None, sizes: list[int]) -> Tensor:
        index = product.join(codes, product.level_products(model.config.quantization_levels))
        return model.decode(index[:, None]).audio_values


FAMILIES: dict[str, AudioFamily] = {
    "encodec": EncodecFamily("EncodecConfig", "EncodecModel"),
    "dac": DacFamily("DacConfig", "DacModel"),
    "mimi": MimiFamily("MimiConfig", "MimiModel"),
    "xcodec": XcodecFamily("XcodecConfig", "XcodecModel"),
    "higgs_audio_v2_tokenizer": XcodecFamily("HiggsAudioV2TokenizerConfig", "HiggsAudioV2TokenizerModel"),
    "xcodec2": Xcodec2Family("Xcodec2Config", "Xcodec2Model"),
}
"""Model type → adapter. No other model class of transformers is built."""
PARTS = {
    "dac": ("DacConfig", DacFamily.undeclared),
    "hubert": ("HubertConfig", ()),
    "wavlm": ("WavLMConfig", ()),
    "wav2vec2": ("Wav2Vec2Config", ()),
    "wav2vec2-bert": ("Wav2Vec2BertConfig", ()),
}
"""Model type of a part → config class, and keys that the class accepts without declaring them."""
