"""`models.save` and `models.load`: a model as a folder of plain values and safetensors. Of an omni model:

config.yaml         omni: {transformer: {…}, channels: [{name, setting, pattern, size}], longest, sampling: {…}}
                    fingerprints: {channel: hex}, and what the trainer adds
model.safetensors   the transformer's weights
CHANNEL/            the codec of a channel that is neither shipped nor registered as it stands
Nothing in a file is ever called or imported: names are looked up in the registry of codecs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenloom import codecs
from tokenloom.codecs import Codec, Target, checkpoint, storage
from tokenloom.codecs.validate import are_integers, is_integer

from . import beside
from .diffusion import checkpoint as decoder_checkpoint
from .diffusion.decoder import DiffusionDecoder
from .omni import Omni, one_thread
from .transformer import Transformer
from .vocabulary.vocabulary import Channel, Vocabulary

MAX_LAYERS = 256
MAX_CHANNELS = 64
MAX_SIZE = 2**16
"""Of any width or length in a config: beyond these it is refused before anything is built."""
CHANNEL_KEYS = ("name", "setting", "pattern", "size")


def names() -> list[str]:
    """The models that come with the package."""
    return checkpoint.shipped("omni")


def save(
    model: Omni | DiffusionDecoder, folder: str | Path, *, store: str = "float32",
    config_file: str = checkpoint.CONFIGS[0], **extra: Any,
) -> None:  # fmt: skip
    """Write an omni model or a diffusion decoder; OSError where it cannot be written.

    store        float32, float16 or int8 (see codecs/storage.py), of the transformer or the flow
    config_file  config.yaml, or config.json by the hub's convention
    extra        plain values for the config, such as `trained={…}`
    Codecs that neither ship nor are registered as they stand are written beside it.
    """
    if isinstance(model, DiffusionDecoder):
        decoder_checkpoint.save(model, folder, store=store, config_file=config_file, **extra)
    else:
        _save(model, Path(folder), store, config_file, extra)


def _save(omni: Omni, folder: Path, store: str, config_file: str, extra: dict[str, Any]) -> None:
    channels = omni.vocabulary.channels
    for name, channel in channels.items():  # first: a model is never without its codecs
        if not beside.at_hand(name, channel.codec):
            codecs.save(channel.codec, folder / beside.folder(name))
    state = {k: v.detach().cpu().contiguous().clone() for k, v in omni.transformer.state_dict().items()}
    state = storage.narrow(state, store, dict(omni.transformer.named_parameters()))
    config = {
        "omni": {
            "transformer": omni.transformer.config,
            "channels": [
                {"name": n, "setting": _plain(c.setting), "pattern": c.pattern, "size": omni.sizes.get(n)}
                for n, c in channels.items()
            ],
            "longest": omni.vocabulary.longest,
            "sampling": omni.defaults,
        },
        "fingerprints": omni.vocabulary.fingerprints,
        **extra,
    }
    checkpoint.write(folder, config, state, config_file)


def load(source: str | Path) -> Omni | DiffusionDecoder:
    """A trained model, or a diffusion decoder, in eval mode from a folder, else a shipped name, else a hub id.

    Raises FileNotFoundError, or ValueError on a damaged file, on weights of another architecture than the config's,
    and where a codec is not the one that the model was trained with: the line names both fingerprints.
    """
    with one_thread():  # many small tensors: see ROWS in omni.py
        folder = checkpoint.find(str(source), "omni", "decoder")
        config = checkpoint.read_config(folder)
        return decoder_checkpoint.load(folder, config) if "decoder" in config else _load(folder, config)


def _load(folder: Path, config: dict[str, Any]) -> Omni:
    if not isinstance(config.get("omni"), dict) or not isinstance(config.get("fingerprints"), dict):
        raise ValueError(f"{folder} describes no omni model: its config lacks omni or fingerprints")
    try:
        vocabulary = _vocabulary(config["omni"], lambda name: beside.codec(folder, name))
        for name, here in vocabulary.fingerprints.items():
            if (there := config["fingerprints"].get(name)) != here:
                raise ValueError(
                    f"it was trained with the codec {name} of fingerprint {there}, the one here has {here}"
                )
        state = beside.weights(folder)
        omni = _assembled(config["omni"], vocabulary, sum(math.prod(value.shape) for value in state.values()))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    checkpoint.fill(omni.transformer, state, folder)
    return omni.eval()


def build(config: Mapping[str, Any]) -> Omni:
    """A model with fresh weights from what `omni:` of a config says; ValueError for what it cannot mean.

    transformer  arguments of Transformer; vocabulary and places follow from the channels
    channels     in order, each {name, codec, setting, pattern, size}: `codec` is what `codecs.load` takes, and the
                 name where absent; `setting` a value of its dial, or a mapping such as {slope: 0.1}, a Target
    longest      most ids of a segment; default: the transformer's context
    sampling     the `defaults` of Omni (to Hydra, a key `defaults` means something else)
    """
    named = {entry["name"]: entry.get("codec", entry["name"]) for entry in _entries(config, ("codec",))}
    return _assembled(config, _vocabulary(config, lambda name: codecs.load(named[name]), ("codec",)))


def _plain(setting: Any) -> Any:
    return {setting.name: setting.value} if isinstance(setting, Target) else setting


# -- what a config says, before it is believed ----------------------------------------------------


def _entries(config: Mapping[str, Any], more: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The channels of a config."""
    if unknown := sorted(map(str, set(config) - {"transformer", "channels", "longest", "sampling"})):
        raise ValueError(f"omni takes no {unknown[0]!r}; it takes transformer, channels, longest, sampling")
    entries, allowed = config.get("channels"), (*CHANNEL_KEYS, *more)
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CHANNELS:
        raise ValueError(f"omni.channels is no list of 1 to {MAX_CHANNELS} channels")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError(f"{entry!r:.80} in omni.channels has no name")
        if unknown := sorted(map(str, set(entry) - set(allowed))):
            raise ValueError(f"channel {entry['name']} takes no {unknown[0]!r}; it takes {', '.join(allowed)}")
    return entries


def _vocabulary(config: Mapping[str, Any], codec: Callable[[str], Codec], more: Sequence[str] = ()) -> Vocabulary:
    """The vocabulary that a config describes; `codec` gives the codec of a channel."""
    channels = []
    for entry in _entries(config, more):
        setting = entry.get("setting")
        try:
            setting = Target(**setting) if isinstance(setting, Mapping) else setting
        except TypeError as error:
            raise ValueError(f"setting {setting!r:.80} of {entry['name']} is no target: {error}") from error
        channels.append(Channel(entry["name"], codec(entry["name"]), setting, entry.get("pattern") or "raster"))
    longest = config.get("longest") or _transformer(config).get("context", 1024)
    if not is_integer(longest, 1, MAX_SIZE):
        raise ValueError(f"omni.longest {longest!r:.80} is no whole number from 1 to {MAX_SIZE}")
    return Vocabulary(channels, longest)


def _transformer(config: Mapping[str, Any]) -> dict[str, Any]:
    given = config.get("transformer")
    if not isinstance(given, Mapping):
        raise ValueError("omni.transformer is no mapping")
    for key, value in given.items():
        most = MAX_LAYERS if key == "layers" else 2**24 if key == "vocabulary" else MAX_SIZE
        if key != "dropout" and value is not None and not is_integer(value, 1, most):
            raise ValueError(f"omni.transformer.{key} {value!r:.80} is no whole number from 1 to {most}")
    return dict(given)


def _assembled(config: Mapping[str, Any], vocabulary: Vocabulary, held: int | None = None) -> Omni:
    """The model; with `held`, the numbers that a file has, only if they suffice: a config takes no more memory."""
    arguments = {"vocabulary": vocabulary.size, "places": vocabulary.places} | _transformer(config)
    if held is not None and (wanted := _fewest(arguments)) > held:
        raise ValueError(f"another architecture than its config: {held} numbers in the file, at least {wanted} wanted")
    try:
        transformer = Transformer(**arguments)
    except TypeError as error:
        raise ValueError(f"no transformer can be built from {arguments!r:.200}: {error}") from error
    sizes = {entry["name"]: entry["size"] for entry in config["channels"] if entry.get("size") is not None}
    if wrong := [name for name, size in sizes.items() if not are_integers(size, 1, 2**28)]:
        raise ValueError(f"size {sizes[wrong[0]]!r:.80} of {wrong[0]} is no list of samples along each axis")
    return Omni(vocabulary, transformer, sizes=sizes, defaults=config.get("sampling"))


def _fewest(transformer: dict[str, Any]) -> int:
    """Weights that it has at least: embeddings, attention and feed-forward layers, norms left out."""
    width, layers = transformer.get("width") or 1, transformer.get("layers") or 1
    hidden = transformer.get("hidden") or 2 * width
    return width * (transformer["vocabulary"] + transformer["places"] + layers * (2 * width + 3 * hidden))
