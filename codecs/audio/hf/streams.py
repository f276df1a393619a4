"""Streams of the causal audio tokenizers of transformers.

The library's own streaming of Mimi takes whole frames only, drops the samples after the last one, and has no state for
the layers of the decoder. Here each layer keeps the samples that it depends on, and pads both ends of a
sound as the library pads the whole.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import foreign
from ...streams import FrameEncoder, StreamDecoder
from ...streams.stages import Stage, Windows
from ...types import Codes
from .. import stages

LONGEST = 1024
"""Most positions of a pass through a transformer, whose memory grows with their square."""


def obstacle(config: Any) -> str | None:
    """Return the reason why the convolutions of a config cannot be streamed; None if they can."""
    if not config.use_causal_conv or config.trim_right_ratio != 1:
        return "its layers look ahead"
    if config.pad_mode not in ("constant", "replicate"):
        return f"its layers pad the start with later samples (pad_mode {config.pad_mode!r:.80})"
    return None


def convolutions(layers: Iterable[nn.Module]) -> list[Stage]:
    """Return layers of an encoder or decoder as functions with state."""
    return [_stage(layer) for layer in layers]


def _stage(layer: Any) -> Stage:
    """Return a layer of EnCodec or Mimi as a function with state."""
    if hasattr(layer, "lstm"):
        return stages.Recurrence(layer)
    if hasattr(layer, "block"):  # a residual unit
        convs = [module for module in layer.modules() if isinstance(module, nn.Conv1d)]
        before = sum((conv.kernel_size[0] - 1) * conv.dilation[0] for conv in convs)
        return Windows(layer, ((before, 0),), 1, 1)
    if not hasattr(layer, "conv"):
        return stages.Pointwise(layer)
    if isinstance(layer.conv, nn.ConvTranspose1d):  # of two strides: an output depends on an input and the one before
        return Windows(functools.partial(_transposed, layer), ((1, 0),), 1, layer.conv.stride[0])
    return _convolution(layer)


def _convolution(layer: Any) -> Stage:
    """Return a causal convolution, which pads kernel − stride on the left and whole strides on the right."""
    (stride,), (dilation,) = layer.conv.stride, layer.conv.dilation
    product = stages.Product(layer.conv.weight, layer.conv.bias, stride, dilation)
    padding = product.reach - stride

    def padded(x: Tensor) -> Tensor:
        return product(F.pad(x, (padding, -x.shape[-1] % stride), layer.pad_mode))

    return Windows(padded, ((-(-padding // stride), 0),), stride, 1)


def _transposed(layer: Any, x: Tensor) -> Tensor:
    """Compute a transposed convolution of two strides. For few steps a matrix product is faster and more accurate."""
    conv = layer.conv
    if len(x) * x.shape[-1] > stages.FEW or conv.groups > 1:
        return layer(x)
    taps = (x.transpose(1, 2) @ conv.weight.flatten(1)).transpose(1, 2)
    now, later = taps.unflatten(1, (-1, 2, conv.stride[0])).unbind(2)
    out = (now + F.pad(later, (1, -1))).transpose(2, 3).flatten(2)
    return out if conv.bias is None else out + conv.bias[:, None]


class Attention:
    """Stage of a transformer in a sliding window. The library's cache keeps the keys and values of the window."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache = foreign.from_transformers("DynamicCache")(config=model.config)

    def __call__(self, x: Tensor | None, last: bool) -> Tensor | None:
        if x is None:
            return None
        parts = x.transpose(1, 2).split(LONGEST, 1)
        outs = [self.model(part, past_key_values=self.cache, use_cache=True).last_hidden_state for part in parts]
        return torch.cat(outs, 1).transpose(1, 2)


class AudioHFEncoder(FrameEncoder):
    """Encoder of a stream. Its codes are those of `encode`, unless two entries are equally near within rounding."""

    codec: Any
    latency = 0

    def __init__(self, codec: Any, setting: Any) -> None:
        family, model = codec.family, codec.model
        self._stage: Stage = family.analysis_stage(model)
        if codec.whole_frames:
            self._stage = stages.Completed(self._stage, codec.spec.stride[0])
        latents = torch.zeros(1, model.config.hidden_size, 1, device=codec.device)
        super().__init__(codec, setting, family.search(model, latents, setting).shape[1])

    @property
    def delay(self) -> int:
        return self.codec.spec.stride[0]

    def _indices(self, x: Tensor | None, last: bool) -> Tensor | None:
        with torch.autocast(self.codec.device.type, enabled=False):
            latents = self._stage(x, last)
            return None if latents is None else self.codec.family.search(self.codec.model, latents, self.setting)


class AudioHFDecoder(StreamDecoder):
    """Decoder of a stream."""

    codec: Any
    latency = 0

    def __init__(self, codec: Any) -> None:
        super().__init__(codec)
        self._stage: Stage = codec.family.synthesis_stage(codec.model)

    def _push(self, codes: Codes) -> Tensor:
        if not codes.indices.shape[2]:
            return self._none()
        family, model, counts = self.codec.family, self.codec.model, codes.quantizers().tolist()
        items = zip(codes.indices.split(1), counts, strict=True)
        with torch.autocast(self.codec.device.type, enabled=False):
            latents = torch.cat([family.embed(model, indices[:, :count]) for indices, count in items])
            sound = self._stage(latents, False)
        assert sound is not None
        return sound[..., : int(codes.sizes[0])].float().clamp(-1, 1)

    def _close(self) -> Tensor:
        return self._none()
