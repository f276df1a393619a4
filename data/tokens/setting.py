"""The codec and the setting that a tokenized data set is made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenloom import codecs
from tokenloom.codecs import registry, validate
from tokenloom.codecs.codec import Codec, LatentCodec
from tokenloom.codecs.targets import MODALITIES
from tokenloom.codecs.types import Target


def open_codec(config: Mapping[str, Any]) -> Codec:
    """Open a codec by `name` (anything that `codecs.load` takes), or build a registered one with other arguments."""
    arguments = {key: value for key, value in config.items() if key != "name"}
    name = str(config["name"])
    if not arguments:
        return codecs.load(name)
    if name not in codecs.names():
        raise ValueError(f"codec.{next(iter(arguments))} is for registered codecs; {name} is a trained one")
    if issubclass(registry.codec_class(name), LatentCodec) and "checkpoint" not in arguments:
        return codecs.load(name)  # raises: it has to be trained first
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
