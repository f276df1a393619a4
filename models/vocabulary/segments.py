"""Segments of prompts and results: from user input to signals and codes, and back to signals, in batches."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tokenloom.codecs import Codec, Codes, CodeSpec, Modality, batches, media, rate

from . import streams
from .channel import Channel

Segment = str | Tensor | os.PathLike | Image.Image | np.ndarray
"""A text; an image, float32 (3, height, width) in [0, 1]; audio, float32 (channels, samples) in [-1, 1]; a PIL image;
an array that `codecs.read` takes; or a pathlib.Path of a file. A str is always a text."""
Key = TypeVar("Key", bound=Hashable)
BATCH = 32
"""Largest number of signals decoded at once."""


class SignalDecoder(Protocol):
    """A codec, or the decoder in its place."""

    spec: CodeSpec

    def decode(self, codes: Codes) -> Tensor | list[str]: ...


def modality(segment: Segment) -> Modality:
    """Return the modality of a segment. Raises ValueError for other types."""
    if isinstance(segment, str):
        return Modality.TEXT
    if isinstance(segment, os.PathLike):
        return media.modality(segment)
    if isinstance(segment, Image.Image):
        return Modality.IMAGE
    if isinstance(segment, Tensor | np.ndarray) and segment.ndim in (2, 3):
        return Modality.IMAGE if segment.ndim == 3 else Modality.AUDIO
    what = f"{type(segment).__name__} {tuple(segment.shape)}" if hasattr(segment, "shape") else type(segment).__name__
    raise ValueError(
        "a segment must be a str, an image (3, height, width), audio (channels, samples), a PIL image or a "
        f"pathlib.Path, got {what}"
    )


def signal(segment: Segment, codec: Codec) -> Tensor | str:
    """Return a segment as the codec's input, without batch axis. Audio files are resampled to its rate."""
    if isinstance(segment, str | Tensor):
        return segment
    spec = codec.spec
    target = {"sample_rate": spec.sample_rate, "channels": spec.channels} if spec.modality is Modality.AUDIO else {}
    return media.read(segment, spec.modality, **target)


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Stretch an image (3, height, width) to `size`: bicubic, antialiased, clamped."""
    return F.interpolate(image[None], list(size), mode="bicubic", antialias=True)[0].clamp(0, 1)


def length(codec: Codec, codes: Codes) -> list[int]:
    """Return the number of ids of each item's segment: BEGIN, the digits of its sizes, its codes, END."""
    axes = 0 if codec.spec.modality is Modality.TEXT else codes.sizes.shape[1]
    digits = [sum(len(streams.varint(n)) for n in size[:axes]) for size in codes.sizes.tolist()]
    ends = 2 - bool(codec.spec.stride)
    return [ends + d + n for d, n in zip(digits, rate.tokens(codec.spec, codes).tolist(), strict=True)]


def encode(signals: Mapping[Key, tuple[Channel, Tensor | str]]) -> dict[Key, Codes]:
    """Encode signals, in one batch per channel and shape. Return the codes of each as a batch of one."""
    groups: dict[tuple, list[Key]] = {}
    for key, (channel, x) in signals.items():
        groups.setdefault((channel.name, getattr(x, "shape", None)), []).append(key)
    out: dict[Key, Codes] = {}
    for keys in groups.values():
        channel = signals[keys[0]][0]
        batch: Any = [signals[key][1] for key in keys]
        if isinstance(batch[0], Tensor):
            batch = torch.stack([x.to(channel.codec.device) for x in batch])
        codes = channel.encode(batch)
        out |= {key: codes[i] for i, key in enumerate(keys)}
    return {key: out[key] for key in signals}


def decode(codec: SignalDecoder, items: Sequence[Codes], most: int = BATCH) -> list[Tensor | str]:
    """Decode items, each a batch of one, with the same result as one by one.

    A batch has at most `most` items. Images and audio share one with items of the same size only: a batch of several
    sizes would hold the largest size along each axis for every item.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, item in enumerate(items):
        size = () if codec.spec.modality is Modality.TEXT else tuple(item.sizes[0].tolist())
        groups.setdefault(size, []).append(i)
    out: list[Any] = [None] * len(items)
    for rows in (group[at : at + most] for group in groups.values() for at in range(0, len(group), most)):
        codes = batches.collate([items[i] for i in rows])
        signals = codec.decode(codes)
        for i, one, size in zip(rows, signals, codes.sizes.tolist(), strict=True):
            out[i] = one if isinstance(one, str) else one[(slice(None), *(slice(n) for n in size))].clone()
    return out


def decode_rows(rows: Sequence[Sequence[tuple[str | None, Any]]], decoders: Mapping[str, Any]) -> list[list[Any]]:
    """Decode the segments (channel, codes) of several documents in common batches.

    `decoders` holds the decoder of each channel. The result for segments without a decoder is None.
    """
    out: list[list[Any]] = [[None] * len(row) for row in rows]
    for name, decoder in decoders.items():
        places = [(i, at) for i, row in enumerate(rows) for at, part in enumerate(row) if part[0] == name]
        codes = [rows[i][at][1] for i, at in places]
        for (i, at), x in zip(places, decode(decoder, codes), strict=True):
            out[i][at] = x
    return out
