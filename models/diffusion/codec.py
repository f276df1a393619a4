"""A codec that decodes through its diffusion decoder: `natural-fsq+diffusion`.

Its codes, rates and containers are those of the codec. Only the decoded signals differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import codecs, errors
from tokenloom.codecs import Codec, Codes, checkpoint
from tokenloom.codecs.registry import is_reference

from . import decoder as decoders
from . import samplers
from .decoder import DiffusionDecoder

DIFFUSION = "diffusion"
"""Name of the decoder that `decoder_for` selects."""
FORM = "CODEC+DECODER or CODEC+DECODER@STEPS"


class DiffusionCodec(Codec):
    """A codec whose `decode` uses a diffusion decoder. A `Target` refers to the codec's own reconstruction.

    Args:
        decoder: The decoder.
        steps: Sampling steps; None for the decoder's default.
        seed: Seed of the noise, the same for every call.
    """

    def __init__(self, decoder: DiffusionDecoder, steps: int | None = None, seed: int = 0) -> None:
        super().__init__()
        samplers.check_seed(seed)
        self.decoder, self.seed = decoder, seed
        self.steps = decoder.steps if steps is None else steps
        samplers.times(self.steps)  # raises ValueError if it is out of range
        self.base = decoder.codec
        self.spec, self.settings, self.context = self.base.spec, self.base.settings, self.base.context
        self.name = f"{self.base.name}+{DIFFUSION}"
        self.license = " AND ".join(dict.fromkeys(filter(None, (self.base.license, decoder.license)))) or None

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @property
    def fingerprint(self) -> bytes:
        return self.base.fingerprint

    @property
    def counts(self) -> Tensor:
        return self.base.counts

    def condition(self, side: dict[str, Tensor]) -> float:
        return self.base.condition(side)

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return self.base.side_shapes(size)

    def span(self, size: tuple[int, ...]) -> tuple[int, int] | None:
        return self.base.span(size)

    def pieces(self, size: tuple[int, ...]) -> int:
        return self.base.pieces(size)

    def working_memory(self, size: tuple[int, ...]) -> int:
        return self.decoder.working_memory(size)

    def encode(self, x: Tensor | list[str], setting: Any = None) -> Codes:
        return self.base.encode(x, setting)

    def _decode(self, codes: Codes) -> Tensor:
        return self.decoder.decode(codes, steps=self.steps, seed=self.seed)


def split(name: str) -> tuple[str, str] | None:
    """Split CODEC+DECODER@STEPS into (CODEC, +DECODER@STEPS). Return None if it names a codec or a folder."""
    if "+" not in name or name in codecs.names() or is_reference(name) or checkpoint.holds_config(Path(name)):
        return None
    codec, _, decoder = name.rpartition("+")
    if not codec or not decoder:
        raise ValueError(f"{name!r} must be the name of a codec, {FORM}")
    return codec, f"+{decoder}"


def is_default(decoder: str) -> bool:
    """Return whether the second part of `split` selects the codec's own decoder."""
    return decoder.removeprefix("+").partition("@")[0] == DIFFUSION


def load(codec: str, decoder: str) -> DiffusionCodec:
    """Load the codec and the decoder that `split` returned. Raises as `codecs.load` and `require_codec` do."""
    name, steps = decoder.removeprefix("+"), None
    if "@" in name and not checkpoint.holds_config(Path(name)):
        name, _, text = name.rpartition("@")
        if not text.isdecimal():
            raise ValueError(f"steps must be an integer, got {text!r} in {codec}{decoder}; the form is {FORM}")
        steps = int(text)
    return DiffusionCodec(find_decoder(codecs.load(codec), name, codec), steps)


def find_decoder(codec: Codec, name: str, label: str | None = None) -> DiffusionDecoder:
    """Return the decoder `name` of a codec; "diffusion" selects the codec's own."""
    if name == DIFFUSION:
        return decoders.decoder_for(codec)
    decoder = load_decoder(name)
    require_codec(decoder, name, codec, label)
    return decoder


def load_decoder(name: str) -> DiffusionDecoder:
    """Load a decoder by its folder, shipped name or hub id. The error of another name knows DIFFUSION, too."""
    if "/" not in name and checkpoint.shipped_folder(name) is None and not Path(name).exists():
        raise ValueError(errors.unknown("decoder", name, [DIFFUSION, *decoders.names()]))
    return decoders.load(name)


def require_codec(decoder: DiffusionDecoder, name: str, codec: Codec, label: str | None = None) -> None:
    """Raise ValueError unless the decoder `name` decodes this codec, which the message calls `label`."""
    if decoder.codec.fingerprint != codec.fingerprint:
        raise ValueError(
            f"{name} decodes {_name_of(decoder.codec)} ({decoder.codec.fingerprint.hex()}), "
            f"not {label or _name_of(codec)} ({codec.fingerprint.hex()})"
        )


def _name_of(codec: Codec) -> str:
    return checkpoint.shipped_with(codec.fingerprint.hex()) or codec.name
