"""Codec that wraps an audio tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import foreign
from ...codec import Codec, build
from ...quantizers import MAX_CODEBOOK
from ...registry import register
from ...streams import StreamDecoder, StreamEncoder
from ...types import Codes
from ...validate import require_integer
from . import configs, weights
from .families import FAMILIES
from .streams import AudioHFDecoder, AudioHFEncoder


@register("audio/hf")
class AudioHF(Codec):
    """Audio tokenizer of transformers. Setting: bandwidth in kbit/s, number of quantizers, or none.

    Items are encoded and decoded one by one, in float32 and eval mode, so codes do not depend on the batch. Silence
    follows if a decoder returns fewer samples than the signal has. Untrained models get random codebooks. Mimi, and
    EnCodec with causal layers that do not reflect, can be streamed (see streams.py).

    Args:
        model: Config of transformers as plain values, with `model_type`. Missing keys have the defaults of the type.
        whole_frames: Whether zeros complete the last frame before encoding, as in Kyutai's own Mimi. Otherwise each
            layer pads its input, as in transformers' Mimi and EnCodec. None for the behavior of transformers.
    """

    variants = ()
    model_types = tuple(FAMILIES)

    def __init__(self, model: dict[str, Any], whole_frames: bool | None = None) -> None:
        super().__init__()
        config = configs.build(model)
        self.family = FAMILIES[config.model_type]
        if whole_frames not in (None, True, False) or (whole_frames is False and self.family.whole_frames):
            raise ValueError(f"whole_frames of {config.model_type} must be None or True, got {whole_frames!r:.80}")
        self.whole_frames = self.family.whole_frames if whole_frames is None else whole_frames
        with configs.refusing(config.model_type):
            configs.count_numbers(config)
            self.model = foreign.from_transformers(self.family.model_class)(config).float().eval()
            for name, book in self.model.named_buffers():
                if name.endswith(("codebook.embed", "codebook.embed_sum")):  # zeros would make every code 0
                    book.normal_()
            self.spec = self.family.spec(self.model)
            self.settings = self.family.settings(self.model)
            self._check()

    @torch.no_grad()
    def _check(self) -> None:
        """Encode and decode two frames. Raises ValueError if the architecture does not work."""
        spec, size = self.spec, 2 * self.spec.stride[0]
        grid = spec.grid((size,))
        require_integer("the sample rate", spec.sample_rate, 1, 384_000)
        require_integer("the number of channels", spec.channels, 1, 2)
        require_integer("the codebook size", max(spec.codebook_sizes), 2, MAX_CODEBOOK)
        codes = self._encode(torch.zeros(1, spec.channels, size), self.settings.values[0])
        if codes.indices.shape[2:] != grid or self._decode(codes).shape[1] != spec.channels:
            raise ValueError(f"{size} samples must give a grid of {grid}, got {tuple(codes.indices.shape[2:])}")

    @classmethod
    def imported(cls, checkpoint: str, whole_frames: bool | None = None) -> Codec:
        """Build the codec from a transformers folder or hub id, Descript's `weights_*.pth`, or Kyutai's Mimi.

        Args:
            checkpoint: Path or hub id. Kyutai's file is `tokenizer-*.safetensors`.
            whole_frames: As in the constructor; None means True for Descript's and Kyutai's files.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If it is of another kind or incomplete.
        """
        path = weights.locate(checkpoint)
        model, state = weights.read(path)
        if whole_frames is None and not weights.is_transformers(path):
            whole_frames = True
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        config, held = configs.build(model), sum(value.numel() for value in state.values())
        with configs.refusing(config.model_type):
            needed = configs.count_numbers(config)
        if needed > 2 * held:
            raise ValueError(f"{path} holds {held} numbers, but its config needs {needed}")
        state = weights.current_names(config, state, path)
        codec = build(cls.name, model=model, **({} if whole_frames is None else {"whole_frames": whole_frames}))
        return foreign.adopt(codec, {f"model.{name}": value for name, value in state.items()}, path)

    def train(self, mode: bool = True) -> AudioHF:
        """Keep the model in eval mode. In training mode DAC drops quantizers at random."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def stream_obstacle(self) -> str | None:
        return self.family.stream_obstacle(self.model)

    def _open_encoder(self, setting: Any) -> StreamEncoder:
        return AudioHFEncoder(self, setting)

    def _open_decoder(self) -> StreamDecoder:
        return AudioHFDecoder(self)

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        scales = self.family.scales(self.spec, self.model, size[0])
        return {"scale": (scales,)} if scales else {}

    def _encode(self, x: Tensor, setting: Any) -> Codes:
        sizes = torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1)
        x = F.pad(x, (0, -x.shape[-1] % self.spec.stride[0])) if self.whole_frames else x
        with torch.autocast(x.device.type, enabled=False):
            parts = [self.family.encode(self.model, one, setting, self.spec) for one in x.split(1)]
        scales = [scale for _, scale in parts if scale is not None]
        side = {"scale": torch.cat(scales)} if scales else {}
        return Codes(torch.cat([codes for codes, _ in parts]), sizes, side=side)

    def _decode(self, codes: Codes) -> Tensor:
        longest = int(codes.sizes.max())
        with torch.autocast(codes.indices.device.type, enabled=False):
            return torch.cat([F.pad(one, (0, longest - one.shape[-1])) for one in self._waveforms(codes)])

    def _waveforms(self, codes: Codes) -> Iterator[Tensor]:
        """Yield the waveform (1, channels, samples) of each item in its own size."""
        for i, count in enumerate(codes.quantizers().tolist()):
            one = codes[i]
            size = int(one.sizes)
            indices = one.indices[:, :count, : self.spec.grid((size,))[0]]
            x = self.family.decode(self.model, indices, self._scales(one, size), self.spec.chunks(size))
            yield F.pad(x[..., :size], (0, max(0, size - x.shape[-1]))).float().clamp(-1, 1)

    def _scales(self, one: Codes, size: int) -> Tensor | None:
        if "scale" not in one.side:
            return None
        scales = one.side["scale"][:, : self.family.scales(self.spec, self.model, size)]
        if not bool(((scales >= 0) & (scales <= 1.001)).all()):
            raise ValueError(f"a scale must be a loudness from 0 to 1, got {scales.abs().max():.3g}")
        return scales
