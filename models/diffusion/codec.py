"""A codec with a diffusion decoder behind it, as one codec: `natural-fsq+diffusion`.

Its codes, rates and containers are the codec's own; only what comes out of them is the decoder's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs import checkpoint
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes
from tokenloom.codecs.validate import is_integer

if TYPE_CHECKING:
    from tokenloom.codecs.context import ContextModel

    from .. import DiffusionDecoder

DIFFUSION = "diffusion"
"""Stands for the decoder that belongs to a codec, loaded or shipped."""
FORM = "CODEC+DECODER or CODEC+DECODER@STEPS"


class Decoded(Codec):
    """Encodes as a codec and decodes as the decoder behind it.

    steps  None: as many as the decoder's own default
    seed   of the decoder's noise, the same for every signal
    A `Target` is met by the codec alone: a PSNR is that of its plain reconstruction.
    """

    def __init__(self, decoder: DiffusionDecoder, steps: int | None = None, seed: int = 0) -> None:
        from . import samplers

        super().__init__()
        if not is_integer(seed, 0, 2**63 - 1):
            raise ValueError(f"seed {seed!r} is no whole number from 0 to 2**63 - 1")
        self.decoder, self.seed = decoder, seed
        self.steps = decoder.steps if steps is None else steps
        samplers.times(self.steps)  # the complaint about a number out of range is said before any work
        self.base = decoder.codec
        self.spec, self.settings = self.base.spec, self.base.settings
        self.name = f"{self.base.name}+{DIFFUSION}"

    @property
    def fingerprint(self) -> bytes:
        return self.base.fingerprint

    @property
    def counts(self) -> Tensor:
        return self.base.counts

    @property
    def context(self) -> ContextModel | None:
        return self.base.context

    def condition(self, side: dict[str, Tensor]) -> float:
        return self.base.condition(side)

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return self.base.side_shapes(size)

    def span(self, size: tuple[int, ...]) -> tuple[int, int] | None:
        return self.base.span(size)

    def pieces(self, size: tuple[int, ...]) -> int:
        return self.base.pieces(size)

    def encode(self, x: Tensor | list[str], setting: Any = None) -> Codes:
        return self.base.encode(x, setting)

    def _decode(self, codes: Codes) -> Tensor:
        return self.decoder.decode(codes, steps=self.steps, seed=self.seed)


def split(name: str) -> tuple[str, str] | None:
    """CODEC+DECODER@STEPS → (CODEC, +DECODER@STEPS); None for what names a codec or a folder by itself."""
    if "+" not in name or name in codecs.names() or Path(name).exists():
        return None
    codec, _, decoder = name.rpartition("+")
    if not codec or not decoder:
        raise ValueError(f"{name!r} is neither a codec nor {FORM}")
    return codec, f"+{decoder}"


def belongs(decoder: str) -> bool:
    """Whether the second part of what `split` gave asks for the decoder that belongs to the codec."""
    return decoder.removeprefix("+").partition("@")[0] == DIFFUSION


def load(codec: str, decoder: str) -> Decoded:
    """The two parts that `split` gave → the codec with that decoder behind it.

    Raises ValueError or FileNotFoundError: for what neither names, a decoder of another codec, steps out of range.
    """
    name, steps = decoder.removeprefix("+"), None
    if "@" in name and not Path(name).exists():
        name, _, text = name.rpartition("@")
        if not text.isdecimal():
            raise ValueError(f"steps {text!r} in {codec}{decoder} is no whole number; wanted {FORM}")
        steps = int(text)
    return Decoded(behind(codecs.load(codec), name, codec), steps)


def behind(codec: Codec, name: str, called: str | None = None) -> DiffusionDecoder:
    """The decoder `name`, or with "diffusion" the one that belongs, of a codec; errors as of `opened` and `require`."""
    from tokenloom import models

    if name == DIFFUSION:
        return models.decoder_for(codec)
    decoder = opened(name)
    require(decoder, name, codec, called)
    return decoder


def opened(name: str) -> DiffusionDecoder:
    """The decoder in a folder, of a shipped name or a hub id; ValueError or FileNotFoundError where there is none."""
    from tokenloom import models

    decoder = models.load(name)
    if not isinstance(decoder, models.DiffusionDecoder):
        raise ValueError(f"{name} is no decoder; there are {', '.join((DIFFUSION, *models.decoders()))}, and folders")
    return decoder


def require(decoder: DiffusionDecoder, name: str, codec: Codec, called: str | None = None) -> None:
    """ValueError, naming both, unless the decoder called `name` is for this codec.

    called  what the codec is called in the complaint; None: as it ships
    """
    if decoder.codec.fingerprint != codec.fingerprint:
        raise ValueError(
            f"{name} decodes {_known(decoder.codec)} ({decoder.codec.fingerprint.hex()}), "
            f"not {called or _known(codec)} ({codec.fingerprint.hex()})"
        )


def _known(codec: Codec) -> str:
    """The name under which a codec ships, else its registered one."""
    wanted = codec.fingerprint.hex()
    root = checkpoint.shipped_root()
    found = (name for name in codecs.shipped() if checkpoint.read_config(root / name).get("fingerprint") == wanted)
    return next(found, codec.name)
