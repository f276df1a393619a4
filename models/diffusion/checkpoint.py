"""Checkpoints of diffusion decoders, and which decoder belongs to a codec.

config.yaml         decoder: {codec: name, steps, temperature, noise, conditional, patch, widths, depths}
                    fingerprints: {codec: hex}, and what the trainer adds
model.safetensors   the flow's weights
codec/              the codec, where it neither ships nor is registered as it stands
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenloom import codecs
from tokenloom.codecs import Codec, LatentCodec, checkpoint, storage

from .. import beside
from .decoder import DiffusionDecoder, Flow, flow_for
from .unet import UNet

OWN = "codec"
"""The folder of a decoder's own codec, and its name in the config."""
_loaded: weakref.WeakValueDictionary[bytes, DiffusionDecoder] = weakref.WeakValueDictionary()


def names() -> list[str]:
    """The decoders that come with the package."""
    return checkpoint.shipped("decoder")


def build(config: Mapping[str, Any]) -> DiffusionDecoder:
    """A decoder with fresh weights; ValueError for what its config cannot mean.

    codec  what `codecs.load` takes: the codec whose codes it decodes
    steps, temperature  see `DiffusionDecoder`; noise, conditional  see `Flow`; patch, widths, depths  see `UNet`
    All but the codec have defaults.
    """
    config = dict(config)
    name = config.pop("codec", None)
    if not isinstance(name, str):
        raise ValueError(f"decoder.codec {name!r:.80} is no codec; wanted a folder, a shipped name or a hub id")
    return _assembled(config, codecs.load(name))


def save(
    decoder: DiffusionDecoder, folder: str | Path, *, store: str = "float32",
    config_file: str = checkpoint.CONFIGS[0], **extra: Any,
) -> None:  # fmt: skip
    """Write the decoder, see `checkpoint.save`; OSError where it cannot be written."""
    folder = Path(folder)
    fingerprint, root = decoder.codec.fingerprint.hex(), checkpoint.shipped_root()
    ships = (n for n in codecs.shipped() if checkpoint.read_config(root / n).get("fingerprint") == fingerprint)
    name = next(ships, OWN)
    if name == OWN:  # first: a decoder is never without its codec
        codecs.save(decoder.codec, folder / OWN)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in decoder.flow.state_dict().items()}
    state = storage.narrow(state, store, dict(decoder.flow.named_parameters()))
    config = {
        "decoder": {"codec": name, **decoder.config},
        "fingerprints": {"codec": fingerprint},
        **extra,
    }
    checkpoint.write(folder, config, state, config_file)


def load(folder: Path, config: Mapping[str, Any]) -> DiffusionDecoder:
    """The decoder in a folder with this config; ValueError in one line where it is damaged or of another codec."""
    given, fingerprints = config.get("decoder"), config.get("fingerprints")
    if not isinstance(given, dict) or not isinstance(fingerprints, dict) or not isinstance(given.get("codec"), str):
        raise ValueError(f"{folder} describes no decoder: its config lacks decoder.codec or fingerprints")
    try:
        codec = beside.codec(folder, given["codec"])
        if (there := fingerprints.get("codec")) != (here := codec.fingerprint.hex()):
            raise ValueError(f"it was trained with a codec of fingerprint {there}; {given['codec']} here has {here}")
        state = beside.weights(folder)
        held = sum(math.prod(value.shape) for value in state.values())
        decoder = _assembled({k: v for k, v in given.items() if k != "codec"}, codec, held)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    checkpoint.fill(decoder.flow, state, folder)
    _loaded[codec.fingerprint] = decoder
    return decoder.eval()


def decoder_for(codec: Codec) -> DiffusionDecoder:
    """The decoder for the codes of this codec: of those loaded the last, else one that ships.

    Raises ValueError where there is none.
    """
    if (decoder := _loaded.get(codec.fingerprint)) is not None:
        return decoder
    for name in names():
        folder = checkpoint.shipped_root() / name
        config = checkpoint.read_config(folder)
        if config["fingerprints"]["codec"] == codec.fingerprint.hex():
            return load(folder, config)
    ships = ", ".join(names()) or "none"
    raise ValueError(f"no diffusion decoder is for this {codec.name}: none that was loaded, none that ships ({ships})")


def _assembled(config: Mapping[str, Any], codec: Codec, held: int | None = None) -> DiffusionDecoder:
    """The decoder; with `held`, the numbers that a file has, only if they suffice: a config takes no more memory."""
    if not isinstance(codec, LatentCodec):
        raise ValueError(f"{codec.name} has no latents; a diffusion decoder stands behind a learned codec")
    known = [name for cls in (DiffusionDecoder, Flow, UNet) for name in _arguments(cls)]
    if unknown := sorted(map(str, set(config) - set(known))):
        raise ValueError(f"decoder takes no {unknown[0]!r}; it takes codec, {', '.join(known)}")
    if held is not None and (wanted := UNet.fewest(**{k: config[k] for k in _arguments(UNet) if k in config})) > held:
        raise ValueError(f"another architecture than its config: {held} numbers in the file, at least {wanted} wanted")
    own = {key: config[key] for key in _arguments(DiffusionDecoder) if key in config}
    flow = flow_for(codec, **{key: value for key, value in config.items() if key not in own})
    return DiffusionDecoder(codec, flow, **own).eval()


def _arguments(cls: type) -> list[str]:
    """Names of what a config may say to a class: its keyword arguments with a default."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
