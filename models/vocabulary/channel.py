"""Channels: codecs with a name and a setting, the parts of a vocabulary."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs import Codec, Codes, Modality, Target, TargetError, batches, validate

from . import streams

AXES = {Modality.TEXT: 0, Modality.AUDIO: 1, Modality.IMAGE: 2}
"""Number of sizes in the header of a segment."""


@dataclass(frozen=True)
class Channel:
    """A codec under a name, at a setting.

    Attributes:
        name: Name of the channel.
        codec: A codec with `spec.total` and without side information.
        setting: Setting that signals are encoded with; for residual quantizers, the number of quantizers.
        pattern: Order of the codes, "raster" or "delay" (see streams.py); "raster" if lengths vary.
    """

    name: str
    codec: Codec
    setting: Any = None
    pattern: str = "raster"

    @property
    def modality(self) -> Modality:
        """Modality of the codec."""
        return self.codec.spec.modality

    def encode(self, x: Tensor | list[str]) -> Codes:
        """Encode a batch of signals at the channel's setting.

        A signal that does not reach a target is encoded at the highest setting, with a warning.
        """
        try:
            return self.codec.encode(x, self.setting)
        except TargetError:
            if len(x) > 1:
                return batches.collate([self.encode(x[i : i + 1]) for i in range(len(x))])
        warnings.warn(f"{self.name}: a signal does not reach {self.setting}; it keeps all tokens", stacklevel=2)
        return self.codec.encode(x, self.codec.settings.values[-1])


def check(channel: Channel) -> None:
    """Raise ValueError unless the channel can enter a vocabulary."""
    codec, name = channel.codec, channel.name
    if not isinstance(codec, Codec):
        raise ValueError(f"channel {name!r} needs a codec, got {type(codec).__name__}")
    spec = codec.spec
    if not spec.total:
        raise ValueError(
            f"{name} ({codec.name}) cannot enter a vocabulary: not every sequence of its tokens decodes (spec.total)"
        )
    if side := codec.side_shapes((1,) * max(1, AXES[spec.modality])):
        raise ValueError(
            f"{name} ({codec.name}) cannot enter a vocabulary: its codes need side information ({', '.join(side)})"
        )
    if channel.pattern not in streams.PATTERNS:
        patterns = ", ".join(streams.PATTERNS)
        raise ValueError(f"the pattern of {name} must be one of {patterns}, got {channel.pattern!r}")
    if channel.pattern != "raster" and not spec.stride:
        raise ValueError(f"the pattern of {name} must be raster because its lengths vary, got {channel.pattern!r}")
    if not isinstance(channel.setting, Target):
        validate.setting(channel.setting, codec)


def quantizer_count(channel: Channel) -> int:
    """Return the number of quantizers that the codec uses at the channel's setting."""
    codec, spec = channel.codec, channel.codec.spec
    if not (spec.ordered and spec.stride and len(spec.codebook_sizes) > 1):
        return len(spec.codebook_sizes)
    if isinstance(channel.setting, Target):
        raise ValueError(
            f"{channel.name}: with {channel.setting} each item has its own number of quantizers, but a channel needs "
            f"one number; {codec.settings.name} can be {codec.settings.describe()}"
        )
    smallest = torch.zeros(1, spec.channels, *[1] * len(spec.stride))
    return int(codec.encode(smallest, channel.setting).quantizers()[0])


def setting_to_plain(setting: Any) -> Any:
    """Return a setting as a plain value for a config file."""
    return {setting.name: setting.value} if isinstance(setting, Target) else setting


def setting_from_plain(value: Any, name: str) -> Any:
    """Return the setting of channel `name` from its plain value. A mapping becomes a `Target`."""
    try:
        return Target(**value) if isinstance(value, Mapping) else value
    except TypeError as error:
        raise ValueError(f"the setting of {name} must be a value or a target, got {value!r:.80}: {error}") from error
