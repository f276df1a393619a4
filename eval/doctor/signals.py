"""Signals to examine a codec on: real ones, and ones made to any size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokenloom import data
from tokenloom.codecs import validate
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import CodeSpec, Modality
from tokenloom.data import BrokenItem, Source

from ..trial import to_codec

MOST = 64
"""Largest number of real signals."""
LONGEST = {Modality.IMAGE: 512, Modality.AUDIO: 10.0}
"""Pixels of a side, or seconds, to which a real signal is cut."""
TEXTS = (
    "The quick brown fox jumps over the lazy dog, 1,234.5 times; isn't that odd?",
    "naïve café, déjà vu: Straße, smörgåsbord, Ελληνικά, русский язык",
    "日本語の文章と한국어 문장, العربية, हिन्दी",
    "emoji 👩‍🚀🏳️‍🌈👍🏽 and\ttabs\nand lines\r\n  and trailing blanks   ",
    "def f(x): return {'a': [x ** 2 for _ in range(3)]}  # code",
    "a",
)
"""Texts of many scripts, beside captions."""


def default_source(spec: CodeSpec) -> tuple[Source, str]:
    """Return signals that need no files, and what they are in words."""
    modality = spec.modality
    if modality is Modality.IMAGE:
        return data.open_source("images"), "the photographs of scikit-image"
    if modality is Modality.AUDIO:
        return data.open_source("phrases", count=8, sample_rate=max(spec.sample_rate or 0, 8000)), "generated music"
    return data.open_source("scenes", count=MOST), "captions of scenes, and lines of many scripts"


def real(codec: Codec, source: Source, own: bool) -> list[Tensor | str]:
    """Return real signals for a codec: images and sounds (channels, *size), cut to LONGEST, or texts.

    Args:
        codec: The codec.
        source: Where they are from.
        own: Whether the user chose the source.

    Raises:
        ValueError: If the source holds no signal of the modality.
    """
    modality = codec.spec.modality
    found = list(_real(codec, source, own))
    if not found:
        raise ValueError(f"the data must hold {modality} for {codec.name}, {source.name} has none that can be read")
    return found


def _real(codec: Codec, source: Source, own: bool) -> Iterator[Tensor | str]:
    spec = codec.spec
    if spec.modality is Modality.TEXT and not own:
        yield from TEXTS
        yield from source.captions()
        return
    for index in source.candidates(spec.modality)[:MOST]:
        try:
            item = source[index]
        except BrokenItem:  # the sound ones are enough
            continue
        if item.modality is not spec.modality or item.signal == "":
            continue
        signal = to_codec(item, codec)[0]
        yield signal if isinstance(signal, str) else _cut(signal, spec)


def _cut(signal: Tensor, spec: CodeSpec) -> Tensor:
    longest = LONGEST[spec.modality]
    most = int(longest * (spec.sample_rate or 1)) if spec.modality is Modality.AUDIO else int(longest)
    return fitted(signal, tuple(min(n, most) for n in signal.shape[1:]))


def fitted(signal: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the middle of a signal (channels, *axes) at another size. A smaller one continues as its mirror image."""
    for axis, want in enumerate(size, 1):
        have = signal.shape[axis]
        first = max(0, (have - want) // 2)
        places = torch.arange(first, first + want) % (2 * have)
        signal = signal.index_select(axis, places.minimum(2 * have - 1 - places).to(signal.device))
    return signal.contiguous()


def noise(spec: CodeSpec, size: tuple[int, ...], count: int = 1, seed: int = 0) -> Tensor:
    """Return uniform noise over the whole range, float32 (count, channels, *size)."""
    low, high = validate.RANGES[spec.modality]
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, spec.channels, *size, generator=generator) * (high - low) + low


def constant(spec: CodeSpec, size: tuple[int, ...], value: float) -> Tensor:
    """Return a constant signal, float32 (1, channels, *size)."""
    return torch.full((1, spec.channels, *size), value)
