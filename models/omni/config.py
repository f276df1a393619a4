"""The config of an omni model: plain values, checked before anything is built from them.

transformer  arguments of Transformer, without vocabulary and places
channels     in order, each {name, setting, pattern, size}; for a new model also codec, the source for `codecs.load`
             (default: the name). A checkpoint has no such key, so it causes no downloads and reads no other paths.
longest      largest number of ids in a segment; default: the transformer's context
sampling     default sampling parameters (Hydra reserves the key `defaults`)
familiarity  {median, most}: bits per token of training prompts (see familiarity.py), which the trainer measures
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from tokenloom.codecs import Codec, checkpoint
from tokenloom.codecs.validate import are_integers, is_integer

from ..transformer import Transformer
from ..vocabulary import Channel, Vocabulary
from ..vocabulary.channel import setting_from_plain, setting_to_plain
from .familiarity import Familiarity

MAX_LAYERS = 256
MAX_CHANNELS = 64
MAX_SIZE = 2**16
"""Largest width or length in a config."""
KEYS = ("transformer", "channels", "longest", "sampling", "familiarity")
CHANNEL_KEYS = ("name", "setting", "pattern", "size")


@dataclass(frozen=True)
class ChannelConfig:
    """One entry of `channels`."""

    name: str
    codec: Any
    setting: Any
    pattern: str
    size: list[int] | None


@dataclass(frozen=True)
class OmniConfig:
    """A checked config."""

    transformer: dict[str, Any]
    channels: list[ChannelConfig]
    longest: int
    sampling: Any
    familiarity: Familiarity | None

    @classmethod
    def parse(cls, config: Mapping[str, Any], *, new: bool) -> OmniConfig:
        """Check the plain values of a config. Raises ValueError if a key is unknown or a value is out of range."""
        if unknown := sorted(map(str, set(config) - set(KEYS))):
            raise ValueError(f"omni has no option {unknown[0]!r}; its options are {', '.join(KEYS)}")
        transformer, channels = config.get("transformer"), config.get("channels")
        if not isinstance(channels, list) or not 1 <= len(channels) <= MAX_CHANNELS:
            raise ValueError(f"omni.channels must be a list of 1 to {MAX_CHANNELS} channels")
        entries = [_channel(entry, (*CHANNEL_KEYS, "codec") if new else CHANNEL_KEYS) for entry in channels]
        if not isinstance(transformer, Mapping):
            raise ValueError(f"omni.transformer must be a mapping, got {transformer!r:.80}")
        for key, value in transformer.items():
            most = MAX_LAYERS if key == "layers" else 2**24 if key == "vocabulary" else MAX_SIZE
            if key != "dropout" and value is not None and not is_integer(value, 1, most):
                raise ValueError(f"omni.transformer.{key} must be an integer from 1 to {most}, got {value!r:.80}")
        longest = transformer.get("context", 1024) if config.get("longest") is None else config["longest"]
        if not is_integer(longest, 1, MAX_SIZE):
            raise ValueError(f"omni.longest must be an integer from 1 to {MAX_SIZE}, got {longest!r:.80}")
        return cls(
            dict(transformer), entries, longest, config.get("sampling"), Familiarity.parse(config.get("familiarity"))
        )

    def vocabulary(self, load: Callable[[ChannelConfig], Codec]) -> Vocabulary:
        """Build the vocabulary; `load` returns the codec of a channel."""
        return Vocabulary([Channel(c.name, load(c), c.setting, c.pattern) for c in self.channels], self.longest)

    def network(self, vocabulary: Vocabulary, state: dict[str, Tensor] | None = None) -> Transformer:
        """Build the transformer. Check before that `state`, if given, has enough weights: allocation may be large."""
        arguments = {"vocabulary": vocabulary.size, "places": vocabulary.places} | self.transformer
        if state is not None:
            checkpoint.check_size(state, _min_weights(arguments))
        try:
            return Transformer(**arguments)
        except TypeError as error:
            raise ValueError(
                f"omni.transformer must hold arguments of Transformer, got {arguments!r:.200}: {error}"
            ) from error

    @property
    def sizes(self) -> dict[str, list[int]]:
        """Size of each channel that has a fixed one."""
        return {channel.name: channel.size for channel in self.channels if channel.size is not None}


def to_plain(
    transformer: Mapping[str, Any], vocabulary: Vocabulary, sizes: Mapping[str, Any], sampling: Mapping[str, Any],
    familiarity: Familiarity | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the config of a model as plain values."""
    channels = [
        {"name": n, "setting": setting_to_plain(c.setting), "pattern": c.pattern, "size": sizes.get(n)}
        for n, c in vocabulary.channels.items()
    ]
    longest = vocabulary.longest
    plain = {"transformer": transformer, "channels": channels, "longest": longest, "sampling": sampling}
    return plain | ({} if familiarity is None else {"familiarity": asdict(familiarity)})


def _channel(entry: Any, keys: tuple[str, ...]) -> ChannelConfig:
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
        raise ValueError(f"a channel in omni.channels must have a name, got {entry!r:.80}")
    if unknown := sorted(map(str, set(entry) - set(keys))):
        raise ValueError(f"channel {name} has no option {unknown[0]!r}; its options are {', '.join(keys)}")
    if (size := entry.get("size")) is not None and not are_integers(size, 1, 2**28):
        raise ValueError(f"the size of {name} must be a list of samples along each axis, got {size!r:.80}")
    setting = setting_from_plain(entry.get("setting"), name)
    pattern = "raster" if entry.get("pattern") is None else entry["pattern"]
    return ChannelConfig(name, entry.get("codec", name), setting, pattern, size)


def _min_weights(transformer: Mapping[str, Any]) -> int:
    """Lower bound on the number of weights: embeddings, attention and feed-forward layers without norms."""
    width, layers = transformer.get("width") or 1, transformer.get("layers") or 1
    hidden = transformer.get("hidden") or 2 * width
    return width * (transformer["vocabulary"] + transformer["places"] + layers * (2 * width + 3 * hidden))
