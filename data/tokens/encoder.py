"""The codec that makes tokens: opened by name or config, with a setting, on a device."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tokenloom import codecs, devices, own_code
from tokenloom.codecs import registry, validate
from tokenloom.codecs.codec import Codec, LatentCodec
from tokenloom.codecs.media import Picture
from tokenloom.codecs.media.pieces import Recording
from tokenloom.codecs.targets import MODALITIES
from tokenloom.codecs.types import Codes, CodeSpec, Modality, Target


class Encoder:
    """A codec with a setting."""

    def __init__(self, codec: Codec, setting: Any) -> None:
        self.codec, self.setting = codec, setting

    @property
    def spec(self) -> CodeSpec:
        return self.codec.spec

    @functools.cached_property
    def takes_large(self) -> bool:
        """Whether signals that are not in memory are encoded piece by piece."""
        if self.spec.modality is Modality.AUDIO:
            return self.codec.stream_obstacle is None and not isinstance(self.setting, Target)
        return codecs.tile_obstacle(self.codec) is None

    def encode(self, signals: Tensor | list[str]) -> Codes:
        """Encode a batch of signals into codes on the CPU."""
        return self.codec.encode(signals, self.setting).to("cpu")

    def encode_large(self, signal: Picture | Recording) -> Codes:
        """Encode a signal piece by piece into the codes of the whole."""
        if isinstance(signal, Picture):
            return codecs.encode_picture(self.codec, signal, self.setting)
        pieces = signal.pieces(self.spec.sample_rate or 1, self.spec.channels)
        return codecs.encode_stream(self.codec, pieces, self.setting).to("cpu")


@dataclass(frozen=True)
class EncoderConfig:
    """The config of an encoder: codec, its fingerprint in hex, setting as in the index, and device."""

    codec: dict[str, Any]
    fingerprint: str
    setting: Any
    device: str
    imports: tuple[str, ...] = field(default_factory=own_code.paths)
    """The user's files, for another process."""

    def open(self) -> Encoder:
        """Open the encoder on any machine. Raises ValueError if the codec has another fingerprint."""
        own_code.load(self.imports)
        codec = open_codec(self.codec)
        if codec.fingerprint.hex() != self.fingerprint:
            raise ValueError(f"codec {self.codec['name']} has changed since this job began")
        codec.to(devices.resolve(self.device))
        return Encoder(codec, parse_setting(self.setting))


def open_codec(config: Mapping[str, Any]) -> Codec:
    """Open a codec by `name` (anything that `codecs.load` takes), or build a registered one with other arguments."""
    arguments = {key: value for key, value in config.items() if key != "name"}
    name = str(config["name"])
    if not arguments or registry.is_reference(name):
        return codecs.load(config if arguments else name)
    if name not in codecs.names():
        raise ValueError(f"codec.{next(iter(arguments))} is for registered codecs; {name} is a trained one")
    if issubclass(registry.codec_class(name), LatentCodec) and "checkpoint" not in arguments:
        return codecs.load(name)  # raises the error that says how to train it
    return codecs.build(name, **arguments)


def parse_setting(value: Any) -> Any:
    """Return a setting as `encode` takes it: {psnr: 30} becomes a Target."""
    if not isinstance(value, Mapping):
        return value
    if unknown := sorted(set(map(str, value)) - set(MODALITIES)):
        raise ValueError(
            f"setting {dict(value)}: the target must be one of {', '.join(MODALITIES)}, got {unknown[0]!r}"
        )
    return Target(**value)


def plain_setting(value: Any, codec: Codec) -> Any:
    """Return a setting as the index stores it, the default for None. Raises ValueError if the codec lacks it."""
    setting = parse_setting(value)
    if not isinstance(setting, Target):
        return validate.setting(setting, codec)
    if len(codec.settings) < 2 or codec.spec.modality is not MODALITIES[setting.name]:
        raise ValueError(f"{setting} is for {MODALITIES[setting.name]} codecs with settings, which {codec.name} is not")
    return {setting.name: float(setting.value)}
